#include "npublas/math/gather.hpp"

#include <cstring>

namespace npublas {
namespace {

/// `stride` is a constant where this is inlined, if it is a small one.
template <typename T>
[[gnu::always_inline]] inline void copy(const std::byte* __restrict from, std::ptrdiff_t stride,
                                        std::int64_t count, std::byte* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * std::int64_t(sizeof(T)), from + i * stride, sizeof(T));
}

template <typename T>
void gather_of(const std::byte* from, std::ptrdiff_t stride, std::int64_t count, std::byte* to) {
  constexpr auto size = std::ptrdiff_t(sizeof(T));
  switch (stride) {
    case size:
      std::memcpy(to, from, std::size_t(count * size));
      return;
    case 2 * size:
      return copy<T>(from, 2 * size, count, to);
    case 3 * size:
      return copy<T>(from, 3 * size, count, to);
    case 4 * size:
      return copy<T>(from, 4 * size, count, to);
    case -size:
      return copy<T>(from, -size, count, to);
    default:
      return copy<T>(from, stride, count, to);
  }
}

}  // namespace

void gather(const std::byte* from, std::ptrdiff_t stride, std::int64_t count, std::int64_t size,
            std::byte* to) {
  switch (size) {
    case 1:
      return gather_of<std::uint8_t>(from, stride, count, to);
    case 2:
      return gather_of<std::uint16_t>(from, stride, count, to);
    case 4:
      return gather_of<std::uint32_t>(from, stride, count, to);
    default:
      return gather_of<std::uint64_t>(from, stride, count, to);
  }
}

}  // namespace npublas
