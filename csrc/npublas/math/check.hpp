// # Checking zeros
// Broken runtimes return zeros with success. A surface of zeros is therefore believed only if the
// product of what was packed really is zero: because nothing of A meets anything of B along K,
// which is cheap to see and the rule where zeros are right; or else by C·x = A·(B·x) for a random
// x. Both cost O(mk + kn), and only surfaces that are all zero though neither operand is are
// checked.
#pragma once

#include <cstdint>

#include "npublas/math/layout.hpp"

namespace npublas {

/// True if zeros may be the answer to A·B, read from packed surfaces of `rows`×`depth`, in layout
/// `of_a`, and `depth`×`columns`: for integers if the product is zero, for float16 if no sum is
/// larger than what the device's own roundings may lose of |A|·|B|, a rounding of 2^-24 for each
/// group of 32. Subnormals count as zero where the device takes them so. Wrong with a probability
/// below 2^-30.
bool product_is_zero(const void* a, const void* b, Element element, Layout of_a, std::int64_t rows,
                     std::int64_t depth, std::int64_t columns, bool flushes_subnormals);

}  // namespace npublas
