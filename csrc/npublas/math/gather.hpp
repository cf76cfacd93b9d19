// # Gathering
// Reads a few lanes at a time from the caller's memory into a buffer in which each lane is
// contiguous, converted on the way, so that all that follows is plain loops over `width` numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "npublas/base/integers.hpp"
#include "npublas/math/pack.hpp"

namespace npublas {

/// Lanes that go through the buffer together. Row-major B has its columns side by side, so 16
/// floats are one cache line of every row that is read; 16 lanes × 2048 deep are 128 KiB, which L2
/// holds.
inline constexpr std::int64_t kLanesTogether = 16;

/// A few lanes, each `width` long: the depth of the source, and zeros up to a whole step.
template <typename T>
class LaneBuffer {
 public:
  explicit LaneBuffer(std::int64_t depth)
      : width_(round_up(depth, kDepthStep)),
        // A line more than the lanes need, because lanes a power of two apart share a cache set.
        pitch_(width_ + std::int64_t(64 / sizeof(T))),
        values_(std::size_t(kLanesTogether * pitch_)) {}

  std::int64_t width() const { return width_; }
  T* lane(std::int64_t lane) { return values_.data() + lane * pitch_; }

  /// Reads `count` lanes of the source, whose elements are of type U, from lane `first` on.
  template <typename U, typename Convert>
  void gather(const Lanes& source, std::int64_t first, std::int64_t count, Convert convert);

 private:
  std::int64_t width_, pitch_;
  std::vector<T> values_;
};

template <typename T>
template <typename U, typename Convert>
void LaneBuffer<T>::gather(const Lanes& source, std::int64_t first, std::int64_t count,
                           Convert convert) {
  constexpr std::ptrdiff_t size = sizeof(U);
  const std::byte* const base =
      static_cast<const std::byte*>(source.data) + first * source.lane_stride;
  const std::int64_t depth = source.depth, pitch = pitch_;
  T* const to = values_.data();
  const auto read = [](const std::byte* from) {
    U value;
    std::memcpy(&value, from, sizeof value);
    return value;
  };
  if (source.lane_stride == size && count == kLanesTogether) {  // neighbours: a line of each row
    for (std::int64_t d = 0; d < depth; ++d) {
      const std::byte* const row = base + d * source.depth_stride;
      for (std::int64_t lane = 0; lane < kLanesTogether; ++lane)
        to[lane * pitch + d] = convert(read(row + lane * size));
    }
  } else if (source.depth_stride == size) {
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const std::byte* const from = base + lane * source.lane_stride;
      for (std::int64_t d = 0; d < depth; ++d)
        to[lane * pitch + d] = convert(read(from + d * size));
    }
  } else {
    for (std::int64_t d = 0; d < depth; ++d)
      for (std::int64_t lane = 0; lane < count; ++lane)
        to[lane * pitch + d] =
            convert(read(base + lane * source.lane_stride + d * source.depth_stride));
  }
}

}  // namespace npublas
