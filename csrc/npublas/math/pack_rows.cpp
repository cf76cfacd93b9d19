#include "npublas/math/pack_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/math/coding.hpp"
#include "npublas/math/gather.hpp"
#include "npublas/math/lane_source.hpp"
#include "npublas/math/scaling.hpp"

namespace npublas {
namespace {

// Four lines of each row: rows are often pages apart, so that it pays to take much from each.
constexpr std::int64_t kBytesOfRow = 256;
// As long as L2 holds the panel; that of a Cortex-A76 of the RK3588 has 512 KiB. (Measured on Zen 5
// with 1 MiB, in turns, rows a power of two apart: int8 of 2048 deep float32 at 0.48 to 0.67 of
// memcpy, and at 0.37 if a panel has but 288 KiB. 512 bytes of each row made no difference.)
#if defined(__aarch64__)
constexpr std::int64_t kPanelBytes = 288 * 1024;
#else
constexpr std::int64_t kPanelBytes = 560 * 1024;
#endif
constexpr std::int64_t kLine = 64;
// What is asked of memory before it is gathered.
constexpr std::int64_t kRowsAhead = 16;
constexpr std::int64_t kMostAsked = 1024;
// Rows more, lest blocks be a power of two apart.
constexpr std::int64_t kGap = 4;

template <typename T>
using OfLanes = std::array<T, Panel::kMostLanes>;
template <typename T>
using OfSixteens = std::array<T, Panel::kMostLanes / 16>;

/// What was seen of the lanes of a panel while they were collected.
struct Seen {
  OfLanes<std::uint32_t> largest;  ///< magnitudes, of floats
  OfSixteens<HalfRanges> ranges;   ///< of float16 as it is

  void reset();
  HalfRange range(std::int64_t lane) const {
    const HalfRanges& of_sixteen = ranges[std::size_t(lane / 16)];
    return {of_sixteen.largest[lane % 16], of_sixteen.smallest_less_one[lane % 16]};
  }
};

/// With what the lanes of a panel are coded, and what is noted meanwhile.
struct Coded {
  OfLanes<float> first, second;  ///< factors, or in `first` scales; 1 for padding
  OfSixteens<bool> scaled;       ///< whether some factor isn't 1, of float16 as it is
  OfLanes<std::int32_t> sums;    ///< of bytes
  OfSixteens<SplitNotes> losses;
  OfSixteens<Put> puts;             ///< of groups
  OfLanes<float> tops;              ///< the largest magnitudes once they are scaled
  OfLanes<std::int64_t> vanishing;  ///< count_vanishing
};

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
        step_(kLine / surface.bytes(1)),
        steps_(std::max<std::int64_t>(ceil_div(source.depth, step_), 1)),
        slots_(is_float(source.dtype) ? steps_ : 1),
        padded_(slots_ * step_ + kGap),
        size_(as_it_is_ ? std::int64_t(bytes_of(source.dtype)) : 4) {
    const std::int64_t group = surface.lanes_together();
    const std::int64_t of_row =
        kBytesOfRow / std::min<std::int64_t>(std::int64_t(bytes_of(source.dtype)), 4);
    together_ = std::clamp(kPanelBytes / (padded_ * size_) / group * group, group, of_row);
    thread_local Scratch panel, zeros, gathered;
    panel_ = panel.at_least(round_up(together_ * size_, kLine) * padded_);
    zeros_ = zeros.at_least(surface.bytes(surface.depth));
    const std::int64_t size = std::int64_t(bytes_of(source.dtype));
    if (source.lane_stride != size) gathered_ = gathered.at_least(step_ * together_ * size);
  }

  std::optional<Packed> pack();

 private:
  // `first` is always the first lane of a panel, `lane` the number of one in its panel.

  void collect(std::int64_t first, std::int64_t step);
  /// Of rows in which lanes aren't quite neighbours, copies in which they are.
  Rows gather_rows(const Rows& rows, std::int64_t from, std::int64_t to) const;
  /// Decides with what lanes are coded. False if there is NaN or infinity.
  bool prepare(std::int64_t first);
  void prepare_floats(std::int64_t first, std::int64_t count);
  void prepare_halves(std::int64_t first, std::int64_t count);
  void prepare_scales(std::int64_t first, std::int64_t count);
  void code(std::int64_t first, std::int64_t step);
  void code_group(std::int64_t lane, const Panel& panel, const Put& put);
  /// Notes what is known of lanes once all of them is coded.
  void note(std::int64_t first);

  /// Fills lines of some blocks with padding.
  void pad(std::int64_t block, std::int64_t end_block, std::int64_t line, std::int64_t end_line);
  void clear_padding_of_surface();

  std::int64_t count_from(std::int64_t first) const {
    return std::min(together_, source_.lanes - first);
  }
  /// Lanes of a block, which is as many lines as there are rows.
  std::int64_t of_block() const { return kLine / size_; }
  std::int64_t line_of(std::int64_t step) const { return step % slots_ * step_; }
  Panel panel_at(std::int64_t lane, std::int64_t step) const {
    const std::int64_t block = padded_ * kLine, within = lane % of_block() * size_;
    return {panel_ + lane / of_block() * block + line_of(step) * kLine + within,
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
  const std::int64_t width_, step_, steps_, slots_, padded_, size_;
  std::int64_t together_;
  std::byte* panel_;
  std::byte* gathered_ = nullptr;
  Seen seen_;
  Coded coded_;
  const std::byte* zeros_;
  std::uint8_t any_ = 0;
  Packed packed_;
};

void Seen::reset() {
  largest.fill(0);
  for (HalfRanges& of_sixteen : ranges) {
    std::fill_n(of_sixteen.largest, 16, std::uint16_t(0));
    std::fill_n(of_sixteen.smallest_less_one, 16, std::uint16_t(0xffff));
  }
}

std::optional<Packed> RowPacker::pack() {
  const std::int64_t end = ceil_div(source_.lanes, together_) * steps_;
  for (std::int64_t t = 0; end > 0 && t < end + slots_; ++t) {
    if (const std::int64_t before = t - slots_; before >= 0) {
      const std::int64_t first = before / steps_ * together_, step = before % steps_;
      if (step == 0 && !prepare(first)) return std::nullopt;
      code(first, step);
      if (step == steps_ - 1) note(first);
    }
    if (t < end) collect(t / steps_ * together_, t % steps_);
  }
  clear_padding_of_surface();
  if (surface_.streams) packers_.fence();
  if (packing_.coding != Coding::half && packing_.coding != Coding::split) packed_.zero = any_ == 0;
  return packed_;
}

void RowPacker::collect(std::int64_t first, std::int64_t step) {
  if (step == 0) seen_.reset();
  const std::int64_t count = count_from(first);
  std::int64_t from = step * step_, to = std::min(from + step_, source_.depth);
  Rows rows{.from = static_cast<const std::byte*>(source_.data) + first * source_.lane_stride,
            .stride = source_.depth_stride,
            .depth = source_.depth,
            .lanes = count,
            .more = (source_.lanes - first - count) * source_.lane_stride};
  if (gathered_) {
    rows = gather_rows(rows, from, to);
    to -= from;
    from = 0;
  }
  // Where row 0 would be.
  std::byte* const panel = panel_ + (line_of(step) - from) * kLine;
  if (!is_float(source_.dtype)) {
    any_ |= packers_.collect_bytes(rows, from, to, padded_, panel, turned_);
  } else if (as_it_is_) {
    packers_.collect_halves(rows, from, to, padded_, panel, seen_.ranges.data());
  } else {
    const auto collect_floats = source_.dtype == DType::float32    ? packers_.collect_float32
                                : source_.dtype == DType::float16  ? packers_.collect_float16
                                : source_.dtype == DType::bfloat16 ? packers_.collect_bfloat16
                                                                   : packers_.collect_float64;
    collect_floats(rows, from, to, padded_, panel, seen_.largest.data());
  }
  if (to - from < step_)
    pad(0, ceil_div(count, of_block()), line_of(step) + to - from, line_of(step) + step_);
}

Rows RowPacker::gather_rows(const Rows& rows, std::int64_t from, std::int64_t to) const {
  const std::int64_t size = std::int64_t(bytes_of(source_.dtype)), pitch = together_ * size;
  const std::int64_t span = std::min(rows.lanes * source_.lane_stride, kMostAsked);
  for (std::int64_t d = from; d < to; ++d) {
    const std::byte* const row = rows.from + d * rows.stride;
    if (d + kRowsAhead < rows.depth)
      for (std::int64_t i = 0; i < span; i += kLine)
        __builtin_prefetch(row + kRowsAhead * rows.stride + i, 0, 2);
    gather(row, source_.lane_stride, rows.lanes, size, gathered_ + (d - from) * pitch);
  }
  return {.from = gathered_, .stride = pitch, .depth = to - from, .lanes = rows.lanes, .more = 0};
}

void RowPacker::pad(std::int64_t block, std::int64_t end_block, std::int64_t line,
                    std::int64_t end_line) {
  for (; block < end_block; ++block)
    std::fill_n(panel_ + (block * padded_ + line) * kLine, (end_line - line) * kLine,
                std::byte(turned_));
}

bool RowPacker::prepare(std::int64_t first) {
  const std::int64_t count = count_from(first);
  // Only the last panel lacks some, and then nothing is collected to these.
  const std::int64_t group = surface_.lanes_together(), whole = round_up(count, group);
  pad(ceil_div(count, of_block()), ceil_div(whole, of_block()), 0, padded_);
  std::uint32_t largest = 0;
  for (const std::uint32_t of_lane : seen_.largest) largest = std::max(largest, of_lane);
  bool finite = std::isfinite(std::bit_cast<float>(largest));
  for (const HalfRanges& ranges : seen_.ranges)
    for (const std::uint16_t of_lane : ranges.largest) finite &= of_lane < 0x7c00;
  if (!finite) return false;
  for (std::int64_t lane = 0; lane < count; lane += group)
    coded_.puts[std::size_t(lane / group)] = surface_.put_of(
        first + lane, std::min(group, surface_.lanes - first - lane), width_, turned_, to_);
  coded_.first.fill(1);
  coded_.second.fill(1);
  coded_.sums.fill(0);
  if (packing_.coding == Coding::quantized)
    prepare_scales(first, count);
  else if (is_float(source_.dtype) && as_it_is_)
    prepare_halves(first, count);
  else if (is_float(source_.dtype))
    prepare_floats(first, count);
  return true;
}

void RowPacker::prepare_floats(std::int64_t first, std::int64_t count) {
  const bool splits = packing_.coding == Coding::split;
  if (splits) std::fill_n(coded_.losses.begin(), ceil_div(count, 16), SplitNotes{});
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const auto i = std::size_t(lane);
    const std::uint32_t largest = seen_.largest[i];
    const int exponent = exponent_for(largest, kTarget);
    const Factors factors(exponent);
    coded_.first[i] = factors.first;
    coded_.second[i] = factors.second;
    packed_.zero &= largest == 0;
    note_scale(first + lane, factors.inverse());
    if (!splits || !notes_.losses) continue;
    coded_.tops[i] = std::bit_cast<float>(largest) * factors.first * factors.second;
    coded_.vanishing[i] = count_vanishing(panel_at(lane, 0).data, kLine, source_.depth, exponent);
  }
}

void RowPacker::prepare_halves(std::int64_t first, std::int64_t count) {
  coded_.scaled.fill(false);
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const HalfRange range = seen_.range(lane);
    const int exponent = exponent_for(range);
    const Factors factors(exponent);
    coded_.first[std::size_t(lane)] = factors.first;
    coded_.scaled[std::size_t(lane / 16)] |= exponent != 0;
    packed_.zero &= range.largest == 0;
    packed_.subnormal |= has_subnormal(range, exponent);
    note_scale(first + lane, factors.inverse());
  }
}

void RowPacker::prepare_scales(std::int64_t first, std::int64_t count) {
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const auto i = std::size_t(lane);
    coded_.first[i] =
        packing_.scale > 0 ? packing_.scale : scale_for(seen_.largest[i], packing_.limit);
    note_scale(first + lane, double(coded_.first[i]));
  }
}

void RowPacker::code(std::int64_t first, std::int64_t step) {
  const std::int64_t group = surface_.lanes_together(), count = count_from(first);
  for (std::int64_t lane = 0; lane < count; lane += group) {
    Put put = coded_.puts[std::size_t(lane / group)];
    const std::int64_t each = kLine / put.piece;
    put.to += step * each * put.piece_stride;
    put.pieces = std::min(put.pieces - step * each, each);
    if (put.pieces > 0) code_group(lane, panel_at(lane, step), put);
  }
}

void RowPacker::code_group(std::int64_t lane, const Panel& panel, const Put& put) {
  const float *const first = coded_.first.data() + lane, *const second =
                                                             coded_.second.data() + lane;
  const auto sixteen = std::size_t(lane / 16);
  switch (packing_.coding) {
    case Coding::half:
      if (!as_it_is_) return packers_.halve_rows(panel, first, second, put);
      if (coded_.scaled[sixteen]) return packers_.scale_rows(panel, first, put);
      return packers_.copy_rows_of_halves(panel, put);
    case Coding::split: {
      Put to_both = put;
      to_both.stream &= (low_ - to_) % kLine == 0;  // or what is a line here isn't one there
      return packers_.split_rows(panel, first, second, to_both, low_ + (put.to - to_),
                                 coded_.losses[sixteen]);
    }
    case Coding::quantized:
      any_ |= packers_.quantize_rows(panel, first, packing_.limit, put);
      return;
    default:
      packers_.copy_rows_of_bytes(panel, put, coded_.sums.data() + lane);
  }
}

void RowPacker::note(std::int64_t first) {
  const std::int64_t count = count_from(first);
  if (!is_float(source_.dtype) && notes_.sums)
    std::copy_n(coded_.sums.begin(), count, notes_.sums + first);
  if (packing_.coding != Coding::split) return;
  for (std::int64_t lane = 0; lane < count; lane += 16)
    packed_.low_zero &= !coded_.losses[std::size_t(lane / 16)].any_low;
  if (!notes_.losses) return;
  for (std::int64_t lane = 0; lane < count; ++lane) {
    const SplitNotes& notes = coded_.losses[std::size_t(lane / 16)];
    const std::int64_t i = lane % 16;
    float sizes[16], totals[16];
    for (int j = 0; j < 16; ++j) {
      sizes[j] = notes.sizes[j][i];
      totals[j] = notes.totals[j][i];
    }
    LaneLoss loss{.largest = notes.largest[i],
                  .total = round_up_sum(totals),
                  .size = round_up_sum(sizes),
                  .top = coded_.tops[std::size_t(lane)],
                  .large = notes.large[i]};
    add_vanishing(coded_.vanishing[std::size_t(lane)], loss);
    notes_.losses[first + lane] = loss;
  }
}

void RowPacker::clear_padding_of_surface() {
  const std::int64_t group = surface_.lanes_together();
  const auto clear = [&](std::int64_t first, std::int64_t d, std::int64_t width) {
    for (; first < surface_.lanes; first += group) {
      const std::int64_t count = std::min(group, surface_.lanes - first);
      surface_.clear(packers_, zeros_, first, count, d, width, to_);
      if (low_) surface_.clear(packers_, zeros_, first, count, d, width, low_);
    }
  };
  clear(round_up(source_.lanes, group), 0, width_);
  clear(0, width_, surface_.depth - width_);
}

}  // namespace

bool lanes_are_near(const Lanes& source, const Packers& packers) {
  const std::int64_t size = std::int64_t(bytes_of(source.dtype));
  return packers.collect_float32 && source.depth_stride != size &&
         (source.lane_stride == size ||
          std::abs(source.lane_stride) < std::abs(source.depth_stride));
}

std::optional<Packed> pack_rows(const Lanes& source, const Packing& packing,
                                const PackedSurface& surface, const Packers& packers, std::byte* to,
                                std::byte* low, const LaneNotes& notes) {
  return RowPacker(source, packing, surface, packers, to,
                   packing.coding == Coding::split ? low : nullptr, notes)
      .pack();
}

}  // namespace npublas
