#include "npublas/math/pack.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/base/half.hpp"
#include "npublas/math/coding.hpp"
#include "npublas/math/gather.hpp"

namespace npublas {
namespace {

// A lane's largest magnitude is scaled into [2^14, 2^15), so that rounding to float16 can't
// overflow. A float16 lane isn't rounded and goes one binade higher: it is then never scaled down,
// so that no element loses a bit. (Its low parts, if it is split, are what was subnormal.)
constexpr int kTarget = 14;
constexpr int kTargetOfHalf = 15;

constexpr Element element_of(Coding coding) {
  return coding == Coding::half || coding == Coding::split ? Element::float16 : Element::int8;
}

/// Where the 16-byte or 32-element pieces of a lane go: A and B differ only in this.
struct Surface {
  Element element;
  bool is_a;
  Layout layout;
  std::int64_t lanes, depth;

  std::int64_t piece() const { return is_a ? layout::a_depth(element) : layout::kBDepth; }
  std::size_t at(std::int64_t lane, std::int64_t d) const {
    return is_a ? layout::a_at(layout, element, lane, d, lanes, depth)
                : layout::b_at(element, d, lane, depth);
  }
};

/// Writes a lane of `width` values, a multiple of the pieces, and zeros below them.
template <typename T>
void scatter_lane(const Surface& surface, std::int64_t lane, const T* values, std::int64_t width,
                  void* to) {
  const std::int64_t piece = surface.piece();
  for (std::int64_t d = 0; d < surface.depth; d += piece) {
    T* const out = static_cast<T*>(to) + surface.at(lane, d);
    if (d < width)
      std::copy_n(values + d, piece, out);
    else
      std::fill_n(out, piece, T(0));
  }
}

template <typename T>
void clear_lanes(const Surface& surface, std::int64_t first, void* to) {
  for (std::int64_t lane = first; lane < surface.lanes; ++lane)
    scatter_lane<T>(surface, lane, nullptr, 0, to);
}

Packed pack_bytes(const Lanes& source, Coding coding, const Surface& surface, void* to,
                  const LaneNotes& notes) {
  // The bits of u - 128 are those of u with the uppermost one turned.
  const std::uint8_t turned = coding == Coding::shifted ? 0x80 : 0;
  LaneBuffer<std::int8_t> buffer(source.depth);
  std::uint8_t any = 0;
  for (std::int64_t first = 0; first < source.lanes; first += kLanesTogether) {
    const std::int64_t count = std::min(kLanesTogether, source.lanes - first);
    buffer.gather<std::uint8_t>(source, first, count,
                                [=](std::uint8_t x) { return std::int8_t(x ^ turned); });
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int8_t* const values = buffer.lane(i);
      for (std::int64_t d = 0; d < source.depth; ++d) any |= std::uint8_t(values[d]) ^ turned;
      if (notes.sums)
        notes.sums[first + i] = std::accumulate(values, values + source.depth, std::int32_t(0));
      scatter_lane(surface, first + i, values, buffer.width(), to);
    }
  }
  clear_lanes<std::int8_t>(surface, source.lanes, to);
  return {.zero = any == 0};
}

void gather_floats(const Lanes& source, std::int64_t first, std::int64_t count,
                   LaneBuffer<float>& buffer) {
  switch (source.dtype) {
    case DType::float16:
      return buffer.gather<std::uint16_t>(source, first, count, half_to_float);
    case DType::bfloat16:
      return buffer.gather<std::uint16_t>(source, first, count, bfloat16_to_float);
    case DType::float64:
      return buffer.gather<double>(source, first, count, [](double x) { return float(x); });
    default:
      return buffer.gather<float>(source, first, count, [](float x) { return x; });
  }
}

/// Calls `convert(lane, values, largest)` for each lane, with its values as floats, `width` of
/// them, and their largest magnitude as bits.
template <typename Convert>
void for_each_lane(const Lanes& source, Packed& packed, Convert convert) {
  LaneBuffer<float> buffer(source.depth);
  for (std::int64_t first = 0; first < source.lanes; first += kLanesTogether) {
    const std::int64_t count = std::min(kLanesTogether, source.lanes - first);
    gather_floats(source, first, count, buffer);
    for (std::int64_t i = 0; i < count; ++i) {
      float* const values = buffer.lane(i);
      const std::uint32_t largest = largest_magnitude(values, buffer.width());
      packed.finite &= std::isfinite(std::bit_cast<float>(largest));
      convert(first + i, values, largest);
    }
  }
}

Packed pack_halves(const Lanes& source, const Surface& surface, void* to, const LaneNotes& notes) {
  Packed packed;
  const bool is_half = source.dtype == DType::float16;
  const std::int64_t width = round_up(source.depth, kDepthStep);
  std::vector<std::uint16_t> halves(std::size_t(width), 0);
  for_each_lane(source, packed, [&](std::int64_t lane, float* values, std::uint32_t largest) {
    const int exponent = exponent_for(largest, is_half ? kTargetOfHalf : kTarget);
    scale_lane(values, width, exponent);
    packed.zero &= largest == 0;
    packed.subnormal |= halve_lane(values, width, halves.data()) && is_half;
    if (notes.scales) notes.scales[lane] = std::ldexp(1.0, -exponent);
    scatter_lane(surface, lane, halves.data(), width, to);
  });
  clear_lanes<std::uint16_t>(surface, source.lanes, to);
  return packed;
}

Packed pack_split(const Lanes& source, const Surface& surface, void* to, void* to_low,
                  const LaneNotes& notes) {
  Packed packed;
  const std::int64_t width = round_up(source.depth, kDepthStep);
  std::vector<std::uint16_t> high(std::size_t(width), 0), low(std::size_t(width), 0);
  std::vector<float> losses(std::size_t(width), 0.0f);
  for_each_lane(source, packed, [&](std::int64_t lane, float* values, std::uint32_t largest) {
    const int exponent = exponent_for(largest, kTarget);
    LaneLoss loss;
    if (std::isfinite(std::bit_cast<float>(largest))) {
      const std::int64_t vanishing = count_vanishing(values, width, exponent);
      scale_lane(values, width, exponent);
      loss.top = std::ldexp(std::bit_cast<float>(largest), exponent);
      if (split_lane(values, width, high.data(), low.data(), losses.data(), loss))
        packed.low_zero = false;
      if (vanishing > 0) {  // which `split_lane` couldn't see
        loss.largest = std::max(loss.largest, 0x1p-126f);
        loss.total += float(vanishing) * 0x1p-126f;
      }
    } else {  // is not going to be used, but NaN must not look like a number
      halve_lane(values, width, high.data());
      std::fill(low.begin(), low.end(), std::uint16_t(0));
    }
    packed.zero &= largest == 0;
    if (notes.scales) notes.scales[lane] = std::ldexp(1.0, -exponent);
    if (notes.losses) notes.losses[lane] = loss;
    scatter_lane(surface, lane, high.data(), width, to);
    scatter_lane(surface, lane, low.data(), width, to_low);
  });
  clear_lanes<std::uint16_t>(surface, source.lanes, to);
  clear_lanes<std::uint16_t>(surface, source.lanes, to_low);
  return packed;
}

Packed pack_quantized(const Lanes& source, const Packing& packing, const Surface& surface, void* to,
                      const LaneNotes& notes) {
  Packed packed;
  const std::int64_t width = round_up(source.depth, kDepthStep);
  std::vector<std::int8_t> quantized(std::size_t(width), 0);
  std::uint8_t any = 0;
  for_each_lane(source, packed, [&](std::int64_t lane, float* values, std::uint32_t largest) {
    const float scale = packing.scale > 0 ? packing.scale : scale_for(largest, packing.limit);
    quantize_lane(values, width, scale, packing.limit, quantized.data());
    for (std::int64_t d = 0; d < width; ++d) any |= std::uint8_t(quantized[std::size_t(d)]);
    if (notes.scales) notes.scales[lane] = double(scale);
    scatter_lane(surface, lane, quantized.data(), width, to);
  });
  clear_lanes<std::int8_t>(surface, source.lanes, to);
  packed.zero = any == 0;
  return packed;
}

void check(const Lanes& source, const Packing& packing, const void* low) {
  const bool whole = packing.coding == Coding::bytes || packing.coding == Coding::shifted;
  const bool fits = !whole ? is_float(source.dtype)
                           : source.dtype == DType::uint8 ||
                                 (source.dtype == DType::int8 && packing.coding == Coding::bytes);
  if (!fits || (packing.coding == Coding::split && !low))
    throw Error(ErrorKind::argument, std::string("a packing of ") + name_of(source.dtype) +
                                         " was asked for that doesn't exist.");
}

Packed pack(const Lanes& source, const Packing& packing, const Surface& surface, void* to,
            void* low, const LaneNotes& notes) {
  check(source, packing, low);
  switch (packing.coding) {
    case Coding::half:
      return pack_halves(source, surface, to, notes);
    case Coding::split:
      return pack_split(source, surface, to, low, notes);
    case Coding::quantized:
      return pack_quantized(source, packing, surface, to, notes);
    default:
      return pack_bytes(source, packing.coding, surface, to, notes);
  }
}

}  // namespace

Packed pack_a(const Lanes& source, const Packing& packing, Layout layout, std::int64_t surface_rows,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes) {
  return pack(source, packing,
              {element_of(packing.coding), true, layout, surface_rows, surface_depth}, surface, low,
              notes);
}

Packed pack_b(const Lanes& source, const Packing& packing, std::int64_t surface_columns,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes) {
  return pack(source, packing,
              {element_of(packing.coding), false, Layout::native, surface_columns, surface_depth},
              surface, low, notes);
}

void join_b(const void* upper, const void* lower, std::int64_t depth, std::int64_t columns,
            void* surface) {
  // All of the depth of 16 columns is contiguous, above and below.
  const std::int64_t block = layout::b_columns(Element::float16);
  const auto* const from_upper = static_cast<const std::uint16_t*>(upper);
  const auto* const from_lower = static_cast<const std::uint16_t*>(lower);
  auto* const to = static_cast<std::uint16_t*>(surface);
  for (std::int64_t column = 0; column < columns; column += block) {
    const std::size_t from = layout::b_at(Element::float16, 0, column, depth);
    std::copy_n(from_upper + from, depth * block,
                to + layout::b_at(Element::float16, 0, column, 2 * depth));
    std::copy_n(from_lower + from, depth * block,
                to + layout::b_at(Element::float16, depth, column, 2 * depth));
  }
}

}  // namespace npublas
