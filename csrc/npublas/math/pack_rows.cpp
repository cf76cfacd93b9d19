#include "npublas/math/pack_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/coding.hpp"
#include "npublas/math/lane_source.hpp"
#include "npublas/math/scaling.hpp"

namespace npublas {
namespace {

// Four lines of each row: rows are often pages apart, so that it pays to take much from each. There
// are two panels. On the RK3588 they nearly fit the 512 KiB of L2 of a Cortex-A76; where L2 is
// larger, four lines of the deeper rows of int8 are worth more (measured on Zen 5: 0.43 rather than
// 0.33 of memcpy for float32 -> int8, rows a power of two apart).
#if defined(__aarch64__)
constexpr std::int64_t kPanelBytes = 288 * 1024;
#else
constexpr std::int64_t kPanelBytes = 560 * 1024;
#endif
constexpr std::int64_t kBytesOfRow = 256;
constexpr std::int64_t kLine = 64;
// A whole number of 64-byte pieces of coded lanes, be they float16 or int8.
constexpr std::int64_t kPanelStep = 64;
// Rows more, lest blocks be a power of two apart.
constexpr std::int64_t kGap = 4;

class RowPacker {
 public:
  RowPacker(const Lanes& source, const Packing& packing, const PackedSurface& surface,
            const Packers& packers, std::byte* to, std::byte* low, const LaneNotes& notes)
      : source_(source),
        packing_(packing),
        surface_(surface),
        packers_(packers),
        to_(to),
        low_(low),
        notes_(notes),
        as_it_is_(!is_float(source.dtype) ||
                  (packing.coding == Coding::half && source.dtype == DType::float16)),
        turned_(packing.coding == Coding::shifted ? 0x80 : 0),
        width_(round_up(source.depth, kDepthStep)),
        padded_(round_up(source.depth, kPanelStep) + kGap),
        size_(as_it_is_ ? std::int64_t(bytes_of(source.dtype)) : 4) {
    const std::int64_t group = surface.lanes_together();
    const std::int64_t of_row =
        kBytesOfRow / std::min<std::int64_t>(std::int64_t(bytes_of(source.dtype)), 4);
    const std::int64_t fit = kPanelBytes / std::max<std::int64_t>(padded_ * size_, 1);
    together_ = std::clamp(fit / group * group, group, of_row);
    thread_local Scratch panels, zeros;
    const std::int64_t bytes = round_up(together_ * size_, kLine) * padded_ + kLine;
    panels_[0].data = panels.at_least(2 * bytes);
    panels_[1].data = panels_[0].data + bytes;
    zeros_ = zeros.at_least(surface.bytes(surface.depth));
  }

  std::optional<Packed> pack();

 private:
  /// Lanes on their way from memory to the surface.
  struct Collected {
    std::byte* data = nullptr;
    std::int64_t first = 0, lanes = 0;
    std::int64_t rows = 0;                                  // so many are there already
    std::array<std::uint32_t, Panel::kMostLanes> largest;   // magnitudes, of floats
    std::array<HalfRanges, Panel::kMostLanes / 16> ranges;  // of float16 as it is
  };

  void begin(Collected& panel, std::int64_t first);
  /// Collects so many rows more, as far as there are.
  void collect(Collected& panel, std::int64_t rows);
  bool complete(Collected& panel);
  /// `at`: of the panel.
  void code(std::int64_t first, std::int64_t at, std::int64_t real, std::int64_t count);
  void halve(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put);
  void scale_halves(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put);
  void split(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put);
  void quantize(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put);

  /// Lanes of a block, which is as many lines as there are rows.
  std::int64_t of_block() const { return kLine / size_; }
  Panel panel_at(std::int64_t lane) const {
    const std::int64_t block = padded_ * kLine, within = lane % of_block() * size_;
    return {current_->data + lane / of_block() * block + within,
            of_block() > 16 ? 16 * size_ : block};
  }
  void note_scale(std::int64_t lane, double scale) {
    if (notes_.scales) notes_.scales[lane] = scale;
  }

  const Lanes& source_;
  const Packing& packing_;
  const PackedSurface& surface_;
  const Packers& packers_;
  std::byte *const to_, *const low_;
  const LaneNotes& notes_;
  const bool as_it_is_;
  const std::uint8_t turned_;
  const std::int64_t width_, padded_, size_;
  std::int64_t together_;
  std::array<Collected, 2> panels_;  // one is coded while the other is collected
  Collected *current_ = nullptr, *next_ = nullptr;
  std::int64_t rows_with_step_ = 0;
  const std::byte* zeros_;
  std::uint8_t any_ = 0;
  Packed packed_;
};

void RowPacker::begin(Collected& panel, std::int64_t first) {
  panel.first = first;
  panel.lanes = std::clamp<std::int64_t>(source_.lanes - first, 0, together_);
  panel.rows = panel.lanes > 0 ? 0 : source_.depth;
  panel.largest.fill(0);
  for (HalfRanges& ranges : panel.ranges) {
    std::fill_n(ranges.largest, 16, std::uint16_t(0));
    std::fill_n(ranges.smallest_less_one, 16, std::uint16_t(0xffff));
  }
}

void RowPacker::collect(Collected& panel, std::int64_t count) {
  const std::int64_t from = panel.rows, to = std::min(from + count, source_.depth);
  if (from == to) return;
  panel.rows = to;
  const Rows rows{
      .from = static_cast<const std::byte*>(source_.data) + panel.first * source_.lane_stride,
      .stride = source_.depth_stride,
      .depth = source_.depth,
      .lanes = panel.lanes,
      .more = (source_.lanes - panel.first - panel.lanes) * source_.lane_stride};
  if (!is_float(source_.dtype)) {
    any_ |= packers_.collect_bytes(rows, from, to, padded_, panel.data, turned_);
  } else if (as_it_is_) {
    packers_.collect_halves(rows, from, to, padded_, panel.data, panel.ranges.data());
  } else {
    const auto collect_floats = source_.dtype == DType::float32    ? packers_.collect_float32
                                : source_.dtype == DType::float16  ? packers_.collect_float16
                                : source_.dtype == DType::bfloat16 ? packers_.collect_bfloat16
                                                                   : packers_.collect_float64;
    collect_floats(rows, from, to, padded_, panel.data, panel.largest.data());
  }
}

/// Adds the padding. False if there is NaN or infinity.
bool RowPacker::complete(Collected& panel) {
  collect(panel, source_.depth);
  const std::int64_t collected = ceil_div(panel.lanes, of_block());
  const std::int64_t wanted =
      ceil_div(round_up(panel.lanes, surface_.lanes_together()), of_block());
  for (std::int64_t i = 0; i < wanted; ++i) {
    const std::int64_t rows = i < collected ? source_.depth : 0;
    std::fill_n(panel.data + (i * padded_ + rows) * kLine, (padded_ - rows) * kLine,
                std::byte(turned_));
  }
  std::uint32_t largest = 0;
  for (const std::uint32_t of_lane : panel.largest) largest = std::max(largest, of_lane);
  bool finite = std::isfinite(std::bit_cast<float>(largest));
  for (const HalfRanges& ranges : panel.ranges)
    for (const std::uint16_t of_lane : ranges.largest) finite &= of_lane < 0x7c00;
  return finite;
}

std::optional<Packed> RowPacker::pack() {
  const std::int64_t group = surface_.lanes_together();
  begin(panels_[0], 0);
  for (std::int64_t first = 0, i = 0; first < source_.lanes; first += together_, ++i) {
    current_ = &panels_[std::size_t(i % 2)];
    next_ = &panels_[std::size_t((i + 1) % 2)];
    if (!complete(*current_)) return std::nullopt;
    begin(*next_, first + together_);
    // So many rows of the next panel are collected with each step of this one.
    const std::int64_t steps =
        ceil_div(current_->lanes, group) * ceil_div(surface_.bytes(width_), 64);
    rows_with_step_ = ceil_div(ceil_div(source_.depth, std::max<std::int64_t>(steps, 1)), 4) * 4;
    for (std::int64_t at = 0; at < current_->lanes; at += group)
      code(first + at, at, std::min(group, current_->lanes - at),
           std::min(group, surface_.lanes - first - at));
  }
  const auto clear = [&](std::int64_t first, std::int64_t d, std::int64_t width) {
    for (; first < surface_.lanes; first += group) {
      const std::int64_t count = std::min(group, surface_.lanes - first);
      surface_.clear(packers_, zeros_, first, count, d, width, to_);
      if (low_) surface_.clear(packers_, zeros_, first, count, d, width, low_);
    }
  };
  clear(round_up(source_.lanes, group), 0, width_);
  clear(0, width_, surface_.depth - width_);
  if (surface_.streams) packers_.fence();
  if (packing_.coding != Coding::half && packing_.coding != Coding::split) packed_.zero = any_ == 0;
  return packed_;
}

void RowPacker::code(std::int64_t first, std::int64_t at, std::int64_t real, std::int64_t count) {
  Put put = surface_.put_of(first, count, width_, turned_, to_);
  put.state = this;
  put.meanwhile = [](void* packer) {
    auto& self = *static_cast<RowPacker*>(packer);
    self.collect(*self.next_, self.rows_with_step_);
  };
  switch (packing_.coding) {
    case Coding::half:
      return as_it_is_ ? scale_halves(first, at, real, put) : halve(first, at, real, put);
    case Coding::split:
      return split(first, at, real, put);
    case Coding::quantized:
      return quantize(first, at, real, put);
    default: {
      std::array<std::int32_t, kMostLanes> sums;
      packers_.copy_rows_of_bytes(panel_at(at), put, sums.data());
      if (notes_.sums) std::copy_n(sums.begin(), real, notes_.sums + first);
    }
  }
}

/// Factors of the lanes of a group, 1 for padding.
struct GroupFactors {
  alignas(64) float first[kMostLanes], second[kMostLanes];
  GroupFactors() {
    std::fill_n(first, kMostLanes, 1.0f);
    std::fill_n(second, kMostLanes, 1.0f);
  }
  void set(std::int64_t lane, int exponent) {
    const Factors factors(exponent);
    first[lane] = factors.first;
    second[lane] = factors.second;
  }
};

void RowPacker::halve(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put) {
  GroupFactors factors;
  for (std::int64_t i = 0; i < real; ++i) {
    const std::uint32_t largest = current_->largest[std::size_t(at + i)];
    const int exponent = exponent_for(largest, kTarget);
    factors.set(i, exponent);
    packed_.zero &= largest == 0;
    note_scale(first + i, std::ldexp(1.0, -exponent));
  }
  packers_.halve_rows(panel_at(at), factors.first, factors.second, put);
}

void RowPacker::scale_halves(std::int64_t first, std::int64_t at, std::int64_t real,
                             const Put& put) {
  GroupFactors factors;
  bool scaled = false;
  for (std::int64_t i = 0; i < real; ++i) {
    const HalfRanges& ranges = current_->ranges[std::size_t((at + i) / 16)];
    const HalfRange range{ranges.largest[(at + i) % 16], ranges.smallest_less_one[(at + i) % 16]};
    const int exponent = exponent_for(range);
    factors.set(i, exponent);
    scaled |= exponent != 0;
    packed_.zero &= range.largest == 0;
    packed_.subnormal |= has_subnormal(range, exponent);
    note_scale(first + i, std::ldexp(1.0, -exponent));
  }
  if (scaled)
    packers_.scale_rows(panel_at(at), factors.first, put);
  else
    packers_.copy_rows_of_halves(panel_at(at), put);
}

void RowPacker::split(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put) {
  GroupFactors factors;
  std::array<int, kMostLanes> exponents{};
  for (std::int64_t i = 0; i < real; ++i) {
    const std::uint32_t largest = current_->largest[std::size_t(at + i)];
    exponents[std::size_t(i)] = exponent_for(largest, kTarget);
    factors.set(i, exponents[std::size_t(i)]);
    packed_.zero &= largest == 0;
    note_scale(first + i, std::ldexp(1.0, -exponents[std::size_t(i)]));
  }
  SplitNotes notes;
  const Panel panel = panel_at(at);
  Put to_both = put;
  to_both.stream &= (low_ - to_) % kLine == 0;  // or what is a line here isn't one there
  packers_.split_rows(panel, factors.first, factors.second, to_both, low_ + (put.to - to_), notes);
  if (notes.any_low) packed_.low_zero = false;
  if (!notes_.losses) return;
  for (std::int64_t i = 0; i < real; ++i) {
    float sizes[16], totals[16];
    for (int j = 0; j < 16; ++j) {
      sizes[j] = notes.sizes[j][i];
      totals[j] = notes.totals[j][i];
    }
    const int exponent = exponents[std::size_t(i)];
    LaneLoss loss{
        .largest = notes.largest[i],
        .total = round_up_sum(totals),
        .size = round_up_sum(sizes),
        .top = std::ldexp(std::bit_cast<float>(current_->largest[std::size_t(at + i)]), exponent),
        .large = notes.large[i]};
    add_vanishing(count_vanishing(panel.data + i * 4, kLine, source_.depth, exponent), loss);
    notes_.losses[first + i] = loss;
  }
}

void RowPacker::quantize(std::int64_t first, std::int64_t at, std::int64_t real, const Put& put) {
  alignas(64) float scales[kMostLanes];
  std::fill_n(scales, kMostLanes, 1.0f);
  for (std::int64_t i = 0; i < real; ++i) {
    scales[i] = packing_.scale > 0
                    ? packing_.scale
                    : scale_for(current_->largest[std::size_t(at + i)], packing_.limit);
    note_scale(first + i, double(scales[i]));
  }
  any_ |= packers_.quantize_rows(panel_at(at), scales, packing_.limit, put);
}

}  // namespace

bool lanes_are_neighbours(const Lanes& source, const Packers& packers) {
  const std::int64_t size = std::int64_t(bytes_of(source.dtype));
  return packers.collect_float32 && source.lane_stride == size && source.depth_stride != size;
}

std::optional<Packed> pack_rows(const Lanes& source, const Packing& packing,
                                const PackedSurface& surface, const Packers& packers, std::byte* to,
                                std::byte* low, const LaneNotes& notes) {
  return RowPacker(source, packing, surface, packers, to,
                   packing.coding == Coding::split ? low : nullptr, notes)
      .pack();
}

}  // namespace npublas
