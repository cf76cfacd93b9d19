// # Checking zeros
// Broken runtimes return zeros with success. A surface of zeros is therefore believed only if the
// product of what was packed really is zero: C·x = A·(B·x) for a random x, which costs O(mk + kn)
// and is made only for surfaces that are all zero though neither operand is.
#pragma once

#include <cstdint>

#include "npublas/math/layout.hpp"

namespace npublas {

/// True if A·B, read from packed surfaces of `rows`×`depth` and `depth`×`columns`, is zero: exactly
/// so for int8, and for float16 up to 2^-40 of |A|·|B|, which is far below what a sum of this type
/// can resolve. Wrong with a probability below 2^-30.
bool product_is_zero(const void* a, const void* b, Element element, std::int64_t rows,
                     std::int64_t depth, std::int64_t columns);

}  // namespace npublas
