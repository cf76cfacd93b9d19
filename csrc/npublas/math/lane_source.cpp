#include "npublas/math/lane_source.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kLine = 64;
// Half of the L2 cache of a Cortex-A76 of the RK3588.
constexpr std::int64_t kGatheredBytes = 256 * 1024;
constexpr std::int64_t kMost = 64;  // lanes
// What is asked of memory before it is needed.
constexpr std::int64_t kAhead = 8 * 1024;

/// Calls `copy(from, to)` for each element of some lanes, the smaller steps innermost.
template <typename Copy>
void for_each_element(const Lanes& lanes, const std::byte* from, std::int64_t count, std::byte* to,
                      std::int64_t pitch, std::int64_t size, Copy copy) {
  if (std::abs(lanes.lane_stride) < std::abs(lanes.depth_stride)) {
    for (std::int64_t d = 0; d < lanes.depth; ++d)
      for (std::int64_t lane = 0; lane < count; ++lane)
        copy(from + lane * lanes.lane_stride + d * lanes.depth_stride,
             to + lane * pitch + d * size);
  } else {
    for (std::int64_t lane = 0; lane < count; ++lane)
      for (std::int64_t d = 0; d < lanes.depth; ++d)
        copy(from + lane * lanes.lane_stride + d * lanes.depth_stride,
             to + lane * pitch + d * size);
  }
}

template <typename From, typename Convert>
auto converted(Convert convert) {
  return [=](const std::byte* from, std::byte* to) {
    From value;
    std::memcpy(&value, from, sizeof value);
    const auto result = convert(value);
    std::memcpy(to, &result, sizeof result);
  };
}

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
    : lanes_(lanes), as_(as), packers_(packers) {
  const std::int64_t from = std::int64_t(bytes_of(lanes.dtype));
  const bool widens = as == As::float32 && lanes.dtype != DType::float32;
  size_ = as == As::float32 ? 4 : from;
  way_ = lanes.depth_stride != from ? Way::one_by_one : widens ? Way::widened : Way::direct;
  lanes_ahead_ = ceil_div(kAhead, std::max<std::int64_t>(lanes.depth * from, 1));
  // A line more than a lane, because lanes a power of two apart would share the sets of a cache.
  pitch_ = round_up(lanes.depth * size_, 2 * kLine) + kLine;
  together_ = std::clamp(kGatheredBytes / pitch_ / group * group, group, kMost);
  thread_local Scratch scratch;
  if (way_ != Way::direct)
    buffer_ = scratch.at_least(way_ == Way::widened ? pitch_ : together_ * pitch_);
}

void LaneSource::gather(std::int64_t first, std::int64_t count) {
  first_ = first;
  if (way_ == Way::one_by_one) gather_one_by_one(source(first), count);
}

void LaneSource::gather_one_by_one(const std::byte* from, std::int64_t count) {
  const auto all = [&](auto copy) {
    for_each_element(lanes_, from, count, buffer_, pitch_, size_, copy);
  };
  const auto same = [](auto x) { return x; };
  switch (lanes_.dtype) {
    case DType::float64:
      return all(converted<double>([](double x) { return float(x); }));
    case DType::float32:
      return all(converted<std::uint32_t>(same));
    case DType::bfloat16:
      return all(converted<std::uint16_t>(bfloat16_to_float));
    case DType::float16:
      if (as_ == As::float32) return all(converted<std::uint16_t>(half_to_float));
      return all(converted<std::uint16_t>(same));
    default:
      return all(converted<std::uint8_t>(same));
  }
}

const std::byte* LaneSource::later(std::int64_t lane) const {
  return source(std::min(lane + lanes_ahead_, lanes_.lanes - 1));
}

const std::byte* LaneSource::ahead(std::int64_t lane) const {
  return way_ == Way::direct ? later(lane) : buffer_;
}

const std::byte* LaneSource::lane(std::int64_t lane) {
  if (way_ != Way::direct && way_ != Way::widened) return buffer_ + (lane - first_) * pitch_;
  const std::byte* const from = source(lane);
  if (way_ == Way::direct) return from;
  float* const to = reinterpret_cast<float*>(buffer_);
  switch (lanes_.dtype) {
    case DType::float64:
      packers_.widen_float64(from, lanes_.depth, to, later(lane));
      break;
    case DType::bfloat16:
      packers_.widen_bfloat16(from, lanes_.depth, to, later(lane));
      break;
    default:
      packers_.widen_float16(from, lanes_.depth, to, later(lane));
  }
  return buffer_;
}

}  // namespace npublas
