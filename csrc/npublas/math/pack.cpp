#include "npublas/math/pack.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

// Lanes that go through the buffer together. Row-major B has its columns side by side, so 16 floats
// are one cache line of every row that is read; 16 lanes × 2048 deep are 128 KiB, which L2 holds.
constexpr std::int64_t kTogether = 16;
// A lane's largest magnitude is scaled into [2^14, 2^15), so that rounding to float16 can't
// overflow. A float16 lane isn't rounded and goes one binade higher: it is then never scaled down,
// so that no element loses a bit.
constexpr int kTarget = 14;
constexpr int kTargetOfHalf = 15;
constexpr std::uint32_t kInfinityBits = 0x7f800000u;

template <typename T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Copies lanes [0, count) into `to[lane * depth + d]`, converting with `convert`.
template <typename T, typename U, typename Convert>
void gather(const Lanes& source, std::int64_t first, std::int64_t count, U* to, Convert convert) {
  const std::byte* base = static_cast<const std::byte*>(source.data) + first * source.lane_stride;
  const std::int64_t depth = source.depth;
  if (source.lane_stride == std::ptrdiff_t(sizeof(T)) && count > 1) {  // lanes are neighbours
    for (std::int64_t d = 0; d < depth; ++d) {
      const std::byte* row = base + d * source.depth_stride;
      for (std::int64_t lane = 0; lane < count; ++lane)
        to[lane * depth + d] = convert(read<T>(row + lane * std::ptrdiff_t(sizeof(T))));
    }
    return;
  }
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const std::byte* from = base + lane * source.lane_stride;
    U* const out = to + lane * depth;
    if (source.depth_stride == std::ptrdiff_t(sizeof(T))) {
      for (std::int64_t d = 0; d < depth; ++d)
        out[d] = convert(read<T>(from + d * std::ptrdiff_t(sizeof(T))));
    } else {
      for (std::int64_t d = 0; d < depth; ++d)
        out[d] = convert(read<T>(from + d * source.depth_stride));
    }
  }
}

void gather_floats(const Lanes& source, std::int64_t first, std::int64_t count, float* to) {
  switch (source.dtype) {
    case DType::float16:
      return gather<std::uint16_t>(source, first, count, to, half_to_float);
    case DType::float64:
      return gather<double>(source, first, count, to, [](double x) { return float(x); });
    default:
      return gather<float>(source, first, count, to, [](float x) { return x; });
  }
}

/// Where the 16-byte or 32-element pieces of a lane go: A and B differ only in this.
struct Surface {
  Element element;
  bool is_a;
  std::int64_t lanes, depth;

  std::int64_t piece() const { return is_a ? layout::a_depth(element) : layout::kBDepth; }
  std::size_t at(std::int64_t lane, std::int64_t d) const {
    return is_a ? layout::a_at(element, lane, d, lanes) : layout::b_at(element, d, lane, depth);
  }
};

template <typename T>
void scatter_lane(const Surface& surface, std::int64_t lane, const T* values, std::int64_t depth,
                  T* to) {
  const std::int64_t piece = surface.piece();
  for (std::int64_t d = 0; d < surface.depth; d += piece) {
    T* const out = to + surface.at(lane, d);
    const std::int64_t filled = std::clamp<std::int64_t>(depth - d, 0, piece);
    if (filled > 0) std::copy_n(values + d, filled, out);
    std::fill_n(out + filled, piece - filled, T(0));
  }
}

template <typename T>
void clear_lane(const Surface& surface, std::int64_t lane, T* to) {
  scatter_lane<T>(surface, lane, nullptr, 0, to);
}

Packed pack_bytes(const Lanes& source, const Surface& surface, std::int8_t* to) {
  Packed packed;
  std::vector<std::int8_t> buffer(std::size_t(kTogether * std::max<std::int64_t>(source.depth, 1)));
  for (std::int64_t first = 0; first < source.lanes; first += kTogether) {
    const std::int64_t count = std::min(kTogether, source.lanes - first);
    gather<std::int8_t>(source, first, count, buffer.data(), [](std::int8_t x) { return x; });
    std::uint8_t any = 0;
    for (std::int64_t i = 0; i < count * source.depth; ++i)
      any |= std::uint8_t(buffer[std::size_t(i)]);
    packed.zero &= any == 0;
    for (std::int64_t lane = 0; lane < count; ++lane)
      scatter_lane(surface, first + lane, buffer.data() + lane * source.depth, source.depth, to);
  }
  for (std::int64_t lane = source.lanes; lane < surface.lanes; ++lane)
    clear_lane(surface, lane, to);
  return packed;
}

/// 2^exponent for any exponent that a scale can have, as two factors that are normal floats.
std::array<float, 2> powers_of_two(int exponent) {
  const int half = exponent / 2;
  return {std::ldexp(1.0f, half), std::ldexp(1.0f, exponent - half)};
}

Packed pack_floats(const Lanes& source, const Surface& surface, std::uint16_t* to,
                   std::int32_t* exponents) {
  Packed packed;
  const std::int64_t depth = source.depth;
  std::vector<float> buffer(std::size_t(kTogether * std::max<std::int64_t>(depth, 1)));
  std::vector<std::uint16_t> halves(std::size_t(std::max<std::int64_t>(depth, 1)));
  const bool watch_subnormals = source.dtype == DType::float16;
  const int target = watch_subnormals ? kTargetOfHalf : kTarget;
  for (std::int64_t first = 0; first < source.lanes; first += kTogether) {
    const std::int64_t count = std::min(kTogether, source.lanes - first);
    gather_floats(source, first, count, buffer.data());
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const float* const values = buffer.data() + lane * depth;
      // Bits order as magnitudes do, with infinity and then NaN on top.
      std::uint32_t largest = 0;
      for (std::int64_t d = 0; d < depth; ++d)
        largest = std::max(largest, std::bit_cast<std::uint32_t>(values[d]) & 0x7fffffffu);
      int exponent = 0;
      if (largest >= kInfinityBits) {
        packed.finite = false;
      } else if (largest != 0) {
        packed.zero = false;
        exponent = target - std::ilogb(std::bit_cast<float>(largest));
      }
      exponents[first + lane] = exponent;
      const auto [s, t] = powers_of_two(exponent);
      for (std::int64_t d = 0; d < depth; ++d)
        halves[std::size_t(d)] = float_to_half(values[d] * s * t);
      if (watch_subnormals) {
        bool subnormal = false;
        for (std::int64_t d = 0; d < depth; ++d) {
          const unsigned magnitude = halves[std::size_t(d)] & 0x7fffu;
          subnormal |= magnitude - 1u < 0x03ffu;
        }
        packed.subnormal |= subnormal;
      }
      scatter_lane(surface, first + lane, halves.data(), depth, to);
    }
  }
  for (std::int64_t lane = source.lanes; lane < surface.lanes; ++lane)
    clear_lane(surface, lane, to);
  return packed;
}

Packed pack(const Lanes& source, const Surface& surface, void* to, std::int32_t* exponents) {
  if (surface.element == Element::int8)
    return pack_bytes(source, surface, static_cast<std::int8_t*>(to));
  return pack_floats(source, surface, static_cast<std::uint16_t*>(to), exponents);
}

}  // namespace

Packed pack_a(const Lanes& source, Element element, std::int64_t surface_rows,
              std::int64_t surface_depth, void* surface, std::int32_t* exponents) {
  return pack(source, {element, true, surface_rows, surface_depth}, surface, exponents);
}

Packed pack_b(const Lanes& source, Element element, std::int64_t surface_columns,
              std::int64_t surface_depth, void* surface, std::int32_t* exponents) {
  return pack(source, {element, false, surface_columns, surface_depth}, surface, exponents);
}

}  // namespace npublas
