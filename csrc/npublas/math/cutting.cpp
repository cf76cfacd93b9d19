#include "npublas/math/cutting.hpp"

#include <algorithm>

#include "npublas/base/integers.hpp"
#include "npublas/base/on_chip.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kMostPixels = 8191;  // of a field of the chip: a piece of N is below it
// Beyond these, row-major A and C are taken row by row.
constexpr std::int64_t kDeepestNormal = 8192;
constexpr std::int64_t kWidestNormal = 32768;
constexpr std::int64_t kMostWeightBanks = 11;

/// One piece of N: how many rows a task has, and whether B stays for the tasks after the first.
struct Piece {
  std::int64_t rows;
  bool stays = false;
};

Piece cut_normal(Element element, std::int64_t rows, std::int64_t depth, std::int64_t columns,
                 std::int64_t all_columns) {
  if (element == Element::int4 || depth > kDeepestNormal || all_columns > kWidestNormal)
    return {.rows = 1};
  const std::int64_t row_bytes = std::int64_t(bytes_of(element, std::size_t(depth)));
  const std::int64_t group = layout::b_columns(element);
  const std::int64_t entries = entries_on_chip(1, row_bytes);
  const std::int64_t all = ceil_div(columns * row_bytes, kBankBytes);
  std::int64_t weights = ceil_div(std::min(2 * group, columns) * row_bytes, kBankBytes);
  if (weights > kMostWeightBanks) weights = ceil_div(group * row_bytes, kBankBytes);
  if (ceil_div(rows * entries, kEntriesPerBank) <= kBanks - weights) return {.rows = rows};
  const bool stays = all <= kBanksOfWeights;
  if (stays) weights = std::max(all, weights);
  return {.rows = (kBanks - weights) * kEntriesPerBank / entries, .stays = stays};
}

Piece cut_native(Element element, std::int64_t rows, std::int64_t depth) {
  const std::int64_t row_bytes = std::int64_t(bytes_of(element, std::size_t(depth)));
  const std::int64_t group = layout::b_columns(element) * row_bytes;
  if (is_one_task(rows, row_bytes, group)) return {.rows = rows};
  const std::int64_t banks = kBanks - std::max(kBanksOfWeights, ceil_div(group, kBankBytes));
  const std::int64_t fit = banks * kBankBytes / row_bytes;
  if (depth > kDeepestNormal) return {.rows = fit};
  const bool divides = banks * kBankBytes % row_bytes == 0;
  if (divides && rows % fit != 0) return {.rows = fit - 2};
  return {.rows = fit / 2 * 2};
}

/// Rows of C of 4 KiB and less cost next to nothing, longer ones more and more (measured at 8, 16
/// and 32 KiB: 1.12 to 1.25, 1.43 to 1.60, 2.0 to 2.3).
double factor_of_rows(double bytes) {
  constexpr double lengths[] = {4096, 8192, 16384, 32768};
  constexpr double factors[] = {1.05, 1.2, 1.5, 2.15};
  if (bytes <= lengths[0]) return factors[0];
  for (int i = 1; i < 4; ++i)
    if (bytes <= lengths[i] || i == 3)
      return factors[i - 1] + (factors[i] - factors[i - 1]) * (bytes - lengths[i - 1]) /
                                  (lengths[i] - lengths[i - 1]);
  return factors[3];
}

}  // namespace

Cutting cut_on_chip(Element element, Layout layout, std::int64_t rows, std::int64_t depth,
                    std::int64_t columns) {
  const std::int64_t step = std::max(layout::b_columns(element), kColumnStep);
  const std::int64_t widest = kMostPixels / step * step;
  Cutting cutting{};
  for (std::int64_t first = 0; first < columns; first += widest) {
    const std::int64_t width = std::min(widest, columns - first);
    const Piece piece = layout == Layout::normal ? cut_normal(element, rows, depth, width, columns)
                                                 : cut_native(element, rows, depth);
    const std::int64_t tasks = ceil_div(rows, piece.rows);
    ++cutting.pieces;
    cutting.tasks += tasks;
    cutting.rows = std::max(cutting.rows, std::min(piece.rows, rows));
    cutting.weight_passes += double(piece.stays ? 1 : tasks) * double(width) / double(columns);
  }
  return cutting;
}

std::int64_t rows_of_one_task(Element element, Layout layout, std::int64_t depth,
                              std::int64_t columns) {
  const std::int64_t row_bytes = std::int64_t(bytes_of(element, std::size_t(depth)));
  const std::int64_t group = layout::b_columns(element) * row_bytes;
  if (layout == Layout::native) {
    const std::int64_t banks = kBanks - std::max(kBanksOfWeights, ceil_div(group, kBankBytes));
    std::int64_t rows = banks * kEntriesPerBank * 4 / std::max<std::int64_t>(row_bytes / 16, 1);
    while (rows > 1 && !is_one_task(rows, row_bytes, group)) --rows;
    return std::max<std::int64_t>(rows, 1);
  }
  if (element == Element::int4 || depth > kDeepestNormal || columns > kWidestNormal) return 1;
  std::int64_t weights =
      ceil_div(std::min(2 * layout::b_columns(element), columns) * row_bytes, kBankBytes);
  if (weights > kMostWeightBanks) weights = ceil_div(group, kBankBytes);
  return std::max<std::int64_t>(
      (kBanks - weights) * kEntriesPerBank / entries_on_chip(1, row_bytes), 1);
}

RunWork work_of_run(Element element, Layout layout, std::int64_t rows, std::int64_t depth,
                    std::int64_t columns, const Rates& rates) {
  const Cutting cutting = cut_on_chip(element, layout, rows, depth, columns);
  const double m = double(rows), k = double(depth), n = double(columns);
  const double element_bytes = double(bytes_of(element, 2)) / 2;
  const double read = element_bytes * k * (n * cutting.weight_passes + m * double(cutting.pieces));
  const double written = double(bytes_of_sum(element)) * m * n;
  // A task of one row writes the same bytes in both layouts.
  const bool scattered = layout == Layout::normal && cutting.rows > 1;
  const double factor =
      rates.slack *
      (scattered ? factor_of_rows(written / m) / factor_of_rows(0) * rates.normal_factor : 1);
  const double computing = m * k * n / (rates.macs_per_second[int(element)] * rates.efficiency);
  return {
      .gaps = double(cutting.tasks - 1) * rates.queued_seconds,
      .alone = factor * std::max(computing, std::max(read, written) / rates.core_bytes_per_second),
      .bytes = read + written,
      .share = factor * (read + written)};
}

double seconds_of_run(const RunWork& work, const Rates& rates, int busy) {
  return work.gaps + std::max(work.alone, work.share * busy / rates.memory_bytes_per_second);
}

}  // namespace npublas
