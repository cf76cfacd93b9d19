#include "npublas/math/repair.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <tuple>

#include "npublas/base/half.hpp"
#include "npublas/base/integers.hpp"

namespace npublas {
namespace {

// 64 lanes × 1024 doubles are 512 KiB and 16 are 128 KiB: what is multiplied comes from L2.
constexpr std::int64_t kPiece = 1024;
constexpr std::int64_t kKept = 64, kStreamed = 16;
// A line more than they need, because lanes a power of two apart share a cache set.
constexpr std::int64_t kPitch = kPiece + 8;
constexpr std::int64_t kSums = 8;            // of an element at a time, for the vector units
constexpr std::int64_t kStep = 4'000'000;    // multiplications: some milliseconds
constexpr std::int64_t kGatheringCosts = 4;  // of them for each number that is read

template <typename T, typename Convert>
void gather_as(const Lanes& source, std::span<const std::int64_t> lanes, std::int64_t from,
               std::int64_t count, Convert convert, double* to) {
  const auto* const base = static_cast<const std::byte*>(source.data) + from * source.depth_stride;
  const auto read = [&](std::int64_t lane, std::int64_t depth) {
    T value;
    std::memcpy(&value, base + lane * source.lane_stride + depth * source.depth_stride,
                sizeof value);
    return double(convert(value));
  };
  if (source.depth_stride == std::ptrdiff_t(sizeof(T))) {
    for (std::size_t i = 0; i < lanes.size(); ++i)
      for (std::int64_t d = 0; d < count; ++d) to[std::int64_t(i) * kPitch + d] = read(lanes[i], d);
  } else {  // of neighbours, a line at a time
    for (std::int64_t d = 0; d < count; ++d)
      for (std::size_t i = 0; i < lanes.size(); ++i)
        to[std::int64_t(i) * kPitch + d] = read(lanes[i], d);
  }
  // Zeros up to a whole number of sums.
  for (std::size_t i = 0; i < lanes.size(); ++i)
    std::fill(to + std::int64_t(i) * kPitch + count,
              to + std::int64_t(i) * kPitch + round_up(count, kSums), 0.0);
}

/// `count` numbers of each of the lanes, from depth `from` on.
void gather(const Lanes& source, std::span<const std::int64_t> lanes, std::int64_t from,
            std::int64_t count, double* to) {
  switch (source.dtype) {
    case DType::float16:
      return gather_as<std::uint16_t>(source, lanes, from, count, half_to_float, to);
    case DType::bfloat16:
      return gather_as<std::uint16_t>(source, lanes, from, count, bfloat16_to_float, to);
    case DType::float64:
      return gather_as<double>(
          source, lanes, from, count, [](double value) { return float(value); }, to);
    default:
      return gather_as<float>(source, lanes, from, count, [](float value) { return value; }, to);
  }
}

double dot(const double* a, const double* b, std::int64_t count) {
  double sums[kSums] = {};
  for (std::int64_t k = 0; k < count; k += kSums)
    for (std::int64_t i = 0; i < kSums; ++i) sums[i] += a[k + i] * b[k + i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <typename T>
void store(const Target& sums, std::int64_t row, std::int64_t column, double sum) {
  const T value = T(sum);
  std::memcpy(
      static_cast<std::byte*>(sums.data) + row * sums.row_stride + column * sums.column_stride,
      &value, sizeof value);
}

/// The lanes that are named, each once and in order.
std::vector<std::int64_t> distinct(std::vector<std::int64_t> lanes) {
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  return lanes;
}

}  // namespace

Repair::Repair(const Lanes& a, const Lanes& b,
               const std::vector<std::pair<std::int64_t, std::int64_t>>& elements)
    : kept_(a),
      streamed_(b),
      kept_piece_(std::size_t(kKept * kPitch)),
      streamed_piece_(std::size_t(kStreamed * kPitch)) {
  std::vector<std::int64_t> rows, columns;
  for (const auto& [row, column] : elements) {
    rows.push_back(row);
    columns.push_back(column);
  }
  rows = distinct(std::move(rows));
  columns = distinct(std::move(columns));
  keeps_columns_ = columns.size() < rows.size();
  if (keeps_columns_) std::swap(kept_, streamed_);
  kept_lanes_ = std::move(keeps_columns_ ? columns : rows);

  elements_.reserve(elements.size());
  for (const auto& [row, column] : elements) {
    const auto at =
        std::lower_bound(kept_lanes_.begin(), kept_lanes_.end(), keeps_columns_ ? column : row);
    elements_.push_back(
        {.kept = at - kept_lanes_.begin(), .streamed = keeps_columns_ ? row : column, .sum = 0});
  }
  std::sort(elements_.begin(), elements_.end(), [](const Element& one, const Element& other) {
    return std::tuple(one.kept / kKept, one.streamed, one.kept) <
           std::tuple(other.kept / kKept, other.streamed, other.kept);
  });
  begin_group();
}

bool Repair::step(const Target& sums) {
  for (std::int64_t done = 0; done < kStep && begin_ < elements_.size();) {
    done += multiply_some();
    if (next_ < end_) continue;
    next_ = begin_;
    from_ += kPiece;
    if (from_ < kept_.depth) continue;
    store_group(sums);
    begin_group();
  }
  return begin_ < elements_.size();
}

/// The group that begins where the last one ended.
void Repair::begin_group() {
  begin_ = next_ = end_;
  while (end_ < elements_.size() && elements_[end_].kept / kKept == elements_[begin_].kept / kKept)
    ++end_;
  from_ = 0;
}

/// The products of this piece of the next few streamed lanes; returns what they cost.
std::int64_t Repair::multiply_some() {
  const std::int64_t count = std::min(kPiece, kept_.depth - from_);
  const std::int64_t first = elements_[begin_].kept / kKept * kKept;
  std::int64_t gathered = 0;
  if (next_ == begin_) {
    const auto all = std::span(kept_lanes_).subspan(std::size_t(first));
    const auto group = all.first(std::min(all.size(), std::size_t(kKept)));
    gather(kept_, group, from_, count, kept_piece_.data());
    gathered += std::int64_t(group.size());
  }

  std::int64_t lanes[kStreamed];
  std::int64_t streamed = 0;
  const std::size_t since = next_;
  for (; next_ < end_; ++next_) {
    const std::int64_t lane = elements_[next_].streamed;
    if (streamed > 0 && lanes[streamed - 1] == lane) continue;
    if (streamed == kStreamed) break;
    lanes[streamed++] = lane;
  }
  gather(streamed_, std::span(lanes, std::size_t(streamed)), from_, count, streamed_piece_.data());
  gathered += streamed;

  std::int64_t slot = 0;
  for (std::size_t i = since; i < next_; ++i) {
    Element& element = elements_[i];
    if (lanes[slot] != element.streamed) ++slot;
    element.sum += dot(kept_piece_.data() + (element.kept - first) * kPitch,
                       streamed_piece_.data() + slot * kPitch, count);
  }
  return (gathered * kGatheringCosts + std::int64_t(next_ - since)) * count;
}

void Repair::store_group(const Target& sums) {
  for (std::size_t i = begin_; i < end_; ++i) {
    const Element& element = elements_[i];
    const std::int64_t kept = kept_lanes_[std::size_t(element.kept)];
    const std::int64_t row = keeps_columns_ ? element.streamed : kept;
    const std::int64_t column = keeps_columns_ ? kept : element.streamed;
    if (sums.dtype == DType::float64)
      store<double>(sums, row, column, element.sum);
    else
      store<float>(sums, row, column, element.sum);
    finite_ &= std::isfinite(float(element.sum));
  }
}

}  // namespace npublas
