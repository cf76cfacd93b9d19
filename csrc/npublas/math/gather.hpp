// # Gathering
// Elements that are any number of bytes apart, made neighbours. Strides of a few elements, of which
// slices like x[:, ::2] and x[:, ::-1] are made, have loops of their own, which the compiler
// vectorises; with all others it is an element after the other.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npublas {

/// Copies `count` elements of `size` bytes (1, 2, 4 or 8), `stride` bytes apart.
void gather(const std::byte* from, std::ptrdiff_t stride, std::int64_t count, std::int64_t size,
            std::byte* to);

}  // namespace npublas
