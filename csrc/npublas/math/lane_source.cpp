#include "npublas/math/lane_source.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "npublas/base/integers.hpp"
#include "npublas/math/gather.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kLine = 64;
// Half of the L2 cache of a Cortex-A76 of the RK3588.
constexpr std::int64_t kGatheredBytes = 256 * 1024;
constexpr std::int64_t kMost = 64;  // lanes
// What is asked of memory before it is needed.
constexpr std::int64_t kAhead = 8 * 1024;

// So many elements of a lane are gathered together: before those of the next lane if lanes are
// nearer to each other than these, so that each line of the source is used up while it is in the L1
// cache.
constexpr std::int64_t kDepthTogether = 32;
constexpr std::int64_t kAsked = 512;  // bytes

}  // namespace

std::byte* Scratch::at_least(std::int64_t bytes) {
  if (bytes > bytes_) {
    memory_.reset();
    memory_.reset(static_cast<std::byte*>(
        ::operator new(std::size_t(bytes), std::align_val_t(std::size_t(kLine)))));
    std::memset(memory_.get(), 0, std::size_t(bytes));
    bytes_ = bytes;
  }
  return memory_.get();
}

void Scratch::Free::operator()(std::byte* memory) const {
  ::operator delete(memory, std::align_val_t(std::size_t(kLine)));
}

LaneSource::LaneSource(const Lanes& lanes, As as, std::int64_t group, const Packers& packers)
    : lanes_(lanes),
      packers_(packers),
      size_(std::int64_t(bytes_of(lanes.dtype))),
      gathers_(lanes.depth_stride != size_),
      widens_(as == As::float32 && lanes.dtype != DType::float32),
      lanes_ahead_(ceil_div(kAhead, std::max<std::int64_t>(lanes.depth * size_, 1))),
      // A line more than a lane, because lanes a power of two apart would share the sets of a
      // cache.
      pitch_(round_up(lanes.depth * size_, 2 * kLine) + kLine),
      together_(std::clamp(kGatheredBytes / pitch_ / group * group, group, kMost)) {
  thread_local Scratch gathered, widened;
  if (gathers_) gathered_ = gathered.at_least(together_ * pitch_);
  if (widens_)
    widened_ = reinterpret_cast<float*>(widened.at_least(round_up(lanes.depth, kDepthStep) * 4));
}

void LaneSource::gather(std::int64_t first, std::int64_t count) {
  first_ = first;
  if (!gathers_) return;
  const std::int64_t stride = std::abs(lanes_.depth_stride);
  const auto gather_part = [&](std::int64_t i, std::int64_t d, std::int64_t together) {
    npublas::gather(source(first + i) + d * lanes_.depth_stride, lanes_.depth_stride,
                    std::min(together, lanes_.depth - d), size_,
                    gathered_ + i * pitch_ + d * size_);
  };
  if (std::abs(lanes_.lane_stride) < stride) {
    for (std::int64_t d = 0; d < lanes_.depth; d += kDepthTogether)
      for (std::int64_t i = 0; i < count; ++i) gather_part(i, d, kDepthTogether);
    return;
  }
  // Lines of the next lane are asked for; not if there is little use in each.
  const std::int64_t together =
      std::max(kAsked / std::max<std::int64_t>(stride, 1), kDepthTogether);
  const std::int64_t asked = together * stride <= 2 * kAsked ? together * stride : 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::byte* const next = source(std::min(first + i + 1, lanes_.lanes - 1));
    for (std::int64_t d = 0; d < lanes_.depth; d += together) {
      for (std::int64_t at = 0; at < asked; at += kLine)
        __builtin_prefetch(next + d * lanes_.depth_stride + at);
      gather_part(i, d, together);
    }
  }
}

const std::byte* LaneSource::later(std::int64_t lane) const {
  return gathers_ ? gathered_ : source(std::min(lane + lanes_ahead_, lanes_.lanes - 1));
}

const std::byte* LaneSource::ahead(std::int64_t lane) const {
  return widens_ ? reinterpret_cast<const std::byte*>(widened_) : later(lane);
}

const std::byte* LaneSource::lane(std::int64_t lane) {
  const std::byte* const from = gathers_ ? gathered_ + (lane - first_) * pitch_ : source(lane);
  if (!widens_) return from;
  const auto widen = lanes_.dtype == DType::float64    ? packers_.widen_float64
                     : lanes_.dtype == DType::bfloat16 ? packers_.widen_bfloat16
                                                       : packers_.widen_float16;
  widen(from, lanes_.depth, widened_, later(lane));
  return reinterpret_cast<const std::byte*>(widened_);
}

}  // namespace npublas
