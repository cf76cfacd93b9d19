#include "npublas/math/pack.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/coding.hpp"
#include "npublas/math/lane_source.hpp"
#include "npublas/math/pack_rows.hpp"
#include "npublas/math/packed_surface.hpp"
#include "npublas/math/packers.hpp"
#include "npublas/math/scaling.hpp"

namespace npublas {
namespace {

// Surfaces larger than this are written past the cache. The CPU doesn't read them again, and the
// runtime's sync would only have to flush them.
constexpr std::int64_t kStreamed = 64 * 1024;
constexpr std::int64_t kLine = 64;

constexpr Element element_of(Coding coding) {
  return coding == Coding::half || coding == Coding::split ? Element::float16 : Element::int8;
}

/// One tile on its way: its lanes in groups, coded and written.
class Tile {
 public:
  Tile(const Lanes& source, const PackedSurface& surface, const Packers& packers,
       const LaneNotes& notes)
      : source_(source),
        surface_(surface),
        notes_(notes),
        packers_(packers),
        width_(round_up(source.depth, kDepthStep)) {
    thread_local Scratch coded, zeros;
    pitch_ = surface.bytes(width_) + kLine;
    coded_ = coded.at_least(2 * kMostLanes * pitch_);
    zeros_ = zeros.at_least(surface.bytes(surface.depth));
  }

  Packed bytes(Coding coding, std::byte* to);
  Packed halves(std::byte* to);  // of float16
  Packed rounded(std::byte* to);
  Packed split(std::byte* high, std::byte* low);
  Packed quantized(const Packing& packing, std::byte* to);

 private:
  /// Calls `code(lane, from, ahead, i)` for the lanes of each group, the i-th of it being made of
  /// `from`, and then `write(first, count)`, which may have lanes of padding.
  template <typename Code, typename Write>
  void for_each_group(LaneSource::As as, Code code, Write write);
  /// Calls `code(lane, from, ahead, largest, i)` for lanes of float32 and their largest magnitude,
  /// which fills `coded(i)`, and `coded_low(i)` if there is `low`. Writes these.
  template <typename Code>
  void for_each_float_lane(std::byte* to, std::byte* low, Code code);

  /// Writes a group and the padding below it.
  void write(const Group& group, std::int64_t first, std::int64_t count, std::byte* to) {
    surface_.put(packers_, group, first, count, 0, width_, 0, to);
    clear_below(first, count, to);
  }
  void clear_below(std::int64_t first, std::int64_t count, std::byte* to) {
    surface_.clear(packers_, zeros_, first, count, width_, surface_.depth - width_, to);
  }

  // Where the i-th lane of a group is coded.
  template <typename T = std::byte>
  T* coded(std::int64_t i) {
    return reinterpret_cast<T*>(coded_ + i * pitch_);
  }
  std::uint16_t* coded_low(std::int64_t i) { return coded<std::uint16_t>(kMostLanes + i); }

  void note_scale(std::int64_t lane, double scale) {
    if (notes_.scales) notes_.scales[lane] = scale;
  }

  /// NaN and infinity go the portable way: what becomes of them isn't used, but is the same bits.
  const Packers& packers_for(std::uint32_t largest) const {
    return std::isfinite(std::bit_cast<float>(largest)) ? packers_ : kPortablePackers;
  }

  const Lanes& source_;
  const PackedSurface& surface_;
  const LaneNotes& notes_;
  const Packers& packers_;
  const std::int64_t width_;  // of a coded lane
  std::int64_t pitch_;
  std::byte* coded_;
  const std::byte* zeros_;
  Packed packed_;
};

template <typename Code, typename Write>
void Tile::for_each_group(LaneSource::As as, Code code, Write write) {
  const std::int64_t together = surface_.lanes_together();
  LaneSource lanes(source_, as, together, packers_);
  for (std::int64_t first = 0; first < surface_.lanes; first += together) {
    const std::int64_t count = std::min(together, surface_.lanes - first);
    const std::int64_t real = std::clamp<std::int64_t>(source_.lanes - first, 0, count);
    if (real > 0 && first % lanes.together() == 0)
      lanes.gather(first, std::min(lanes.together(), source_.lanes - first));
    for (std::int64_t i = 0; i < real; ++i) {
      const std::byte* const from = lanes.lane(first + i);
      code(first + i, from, lanes.ahead(first + i), i);
    }
    write(first, count);
  }
  if (surface_.streams) packers_.fence();
}

template <typename Code>
void Tile::for_each_float_lane(std::byte* to, std::byte* low, Code code) {
  const auto code_lane = [&](std::int64_t lane, const std::byte* from, const std::byte* ahead,
                             std::int64_t i) {
    const std::uint32_t largest = packers_.largest_float(from, source_.depth);
    packed_.finite &= std::isfinite(std::bit_cast<float>(largest));
    code(lane, from, ahead, largest, i);
  };
  for_each_group(LaneSource::As::float32, code_lane, [&](std::int64_t first, std::int64_t count) {
    Group high_parts, low_parts;
    for (std::int64_t i = 0; i < count; ++i) {
      const bool real = first + i < source_.lanes;
      high_parts[std::size_t(i)] = real ? coded(i) : zeros_;
      low_parts[std::size_t(i)] = real ? reinterpret_cast<std::byte*>(coded_low(i)) : zeros_;
    }
    write(high_parts, first, count, to);
    if (low) write(low_parts, first, count, low);
  });
}

Packed Tile::rounded(std::byte* to) {
  for_each_float_lane(to, nullptr,
                      [&](std::int64_t lane, const std::byte* from, const std::byte* ahead,
                          std::uint32_t largest, std::int64_t i) {
                        const int exponent = exponent_for(largest, kTarget);
                        const Factors factors(exponent);
                        packers_for(largest).halve(from, source_.depth, factors.first,
                                                   factors.second, coded<std::uint16_t>(i), ahead);
                        packed_.zero &= largest == 0;
                        note_scale(lane, factors.inverse());
                      });
  return packed_;
}

Packed Tile::halves(std::byte* to) {
  Group group;
  const auto code = [&](std::int64_t lane, const std::byte* from, const std::byte* ahead,
                        std::int64_t i) {
    const HalfRange range = packers_.range_of_halves(from, source_.depth, ahead);
    const bool finite = range.largest < 0x7c00;
    packed_.finite &= finite;
    packed_.zero &= range.largest == 0;
    const int exponent = exponent_for(range);
    packed_.subnormal |= has_subnormal(range, exponent);
    const Factors factors(exponent);
    note_scale(lane, factors.inverse());
    if (exponent == 0 && source_.depth == width_ && finite) {
      group[std::size_t(i)] = from;
      return;
    }
    (finite ? packers_ : kPortablePackers)
        .scale_halves(from, source_.depth, factors.first, coded<std::uint16_t>(i), from);
    group[std::size_t(i)] = coded(i);
  };
  for_each_group(LaneSource::As::as_it_is, code, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = std::max<std::int64_t>(source_.lanes - first, 0); i < count; ++i)
      group[std::size_t(i)] = zeros_;
    write(group, first, count, to);
  });
  return packed_;
}

Packed Tile::split(std::byte* high, std::byte* low) {
  for_each_float_lane(
      high, low,
      [&](std::int64_t lane, const std::byte* from, const std::byte* ahead, std::uint32_t largest,
          std::int64_t i) {
        const int exponent = exponent_for(largest, kTarget);
        const Factors factors(exponent);
        LaneLoss loss;
        if (std::isfinite(std::bit_cast<float>(largest))) {
          SplitNote note;
          packers_.split(from, source_.depth, factors.first, factors.second,
                         coded<std::uint16_t>(i), coded_low(i), note, ahead);
          if (note.any_low) packed_.low_zero = false;
          loss = {.largest = note.largest,
                  .total = round_up_sum(note.totals),
                  .size = round_up_sum(note.sizes),
                  .top = std::bit_cast<float>(largest) * factors.first * factors.second,
                  .large = note.large};
          // What scaling made zero of, or rounded, before it was split.
          add_vanishing(count_vanishing(from, 4, source_.depth, exponent), loss);
        } else {  // is not going to be used, but NaN must not look like a number
          kPortablePackers.halve(from, source_.depth, 1, 1, coded<std::uint16_t>(i), ahead);
          std::fill_n(coded_low(i), width_, std::uint16_t(0));
        }
        packed_.zero &= largest == 0;
        note_scale(lane, factors.inverse());
        if (notes_.losses) notes_.losses[lane] = loss;
      });
  return packed_;
}

Packed Tile::quantized(const Packing& packing, std::byte* to) {
  std::uint8_t any = 0;
  for_each_float_lane(
      to, nullptr,
      [&](std::int64_t lane, const std::byte* from, const std::byte* ahead, std::uint32_t largest,
          std::int64_t i) {
        const float scale = packing.scale > 0 ? packing.scale : scale_for(largest, packing.limit);
        any |= packers_for(largest).quantize(from, source_.depth, scale, packing.limit,
                                             coded<std::int8_t>(i), ahead);
        note_scale(lane, double(scale));
      });
  packed_.zero = any == 0;
  return packed_;
}

Packed Tile::bytes(Coding coding, std::byte* to) {
  // The bits of u - 128 are those of u with the uppermost one turned.
  const std::uint8_t turned = coding == Coding::shifted ? 0x80 : 0;
  const std::int64_t whole = source_.depth / kDepthStep * kDepthStep;
  const std::int64_t rest = source_.depth - whole;
  std::uint8_t any = 0;
  Group group, last;
  const auto code = [&](std::int64_t lane, const std::byte* from, const std::byte* ahead,
                        std::int64_t i) {
    const ByteNote note = packers_.note_bytes(from, source_.depth, turned, ahead);
    any |= note.any;
    if (notes_.sums) notes_.sums[lane] = note.sum;
    group[std::size_t(i)] = from;
    if (rest == 0) return;
    // The last step is filled with zeros, which aren't turned.
    std::byte* const end = coded(i);
    for (std::int64_t d = 0; d < kDepthStep; ++d)
      end[d] = d < rest ? from[whole + d] ^ std::byte(turned) : std::byte(0);
    last[std::size_t(i)] = end;
  };
  for_each_group(LaneSource::As::as_it_is, code, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t real = std::clamp<std::int64_t>(source_.lanes - first, 0, count);
    surface_.put(packers_, group, first, real, 0, whole, turned, to);
    if (rest > 0) surface_.put(packers_, last, first, real, whole, kDepthStep, 0, to);
    surface_.clear(packers_, zeros_, first + real, count - real, 0, width_, to);
    clear_below(first, count, to);
  });
  packed_.zero = any == 0;
  return packed_;
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

Packed pack(const Lanes& source, const Packing& packing, bool is_a, Layout layout,
            std::int64_t lanes, std::int64_t depth, void* surface, void* low,
            const LaneNotes& notes) {
  check(source, packing, low);
  const Element element = element_of(packing.coding);
  const bool streams = std::int64_t(bytes_of(element, std::size_t(lanes * depth))) > kStreamed;
  const PackedSurface target{element, is_a, layout, lanes, depth, streams && !packing.reread};
  const Packers& packers = packers_in_use();
  auto* const to = static_cast<std::byte*>(surface);
  auto* const to_low = static_cast<std::byte*>(low);
  if (lanes_are_near(source, packers)) {
    const auto packed = pack_rows(source, packing, target, packers, to, to_low, notes);
    if (packed) return *packed;
  }
  Tile tile(source, target, packers, notes);
  switch (packing.coding) {
    case Coding::half:
      return source.dtype == DType::float16 ? tile.halves(to) : tile.rounded(to);
    case Coding::split:
      return tile.split(to, to_low);
    case Coding::quantized:
      return tile.quantized(packing, to);
    default:
      return tile.bytes(packing.coding, to);
  }
}

}  // namespace

Packed pack_a(const Lanes& source, const Packing& packing, Layout layout, std::int64_t surface_rows,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes) {
  return pack(source, packing, true, layout, surface_rows, surface_depth, surface, low, notes);
}

Packed pack_b(const Lanes& source, const Packing& packing, std::int64_t surface_columns,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes) {
  return pack(source, packing, false, Layout::native, surface_columns, surface_depth, surface, low,
              notes);
}

}  // namespace npublas
