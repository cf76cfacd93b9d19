#include "npublas/math/accuracy.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace npublas {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr std::int64_t kFew = 16;    // elements that may be doubtful in any product,
constexpr std::int64_t kOneOf = 32;  // and their share in large ones
// A loss that float32 can't show: half of its smallest number.
constexpr double kInvisible = 0x1p-150;
constexpr double kMeeting = double(kLarge) * double(kLarge);

/// What a lane has to be compared with at worst: of all lanes on the other side that aren't zero.
struct Others {
  double size = 0, top = 0;
  std::int64_t large = std::numeric_limits<std::int64_t>::max();
};

Others others_of(const LaneLoss* losses, std::int64_t count) {
  Others others;
  for (std::int64_t i = 0; i < count; ++i) {
    if (losses[i].top == 0) continue;
    others.size = std::max(others.size, double(losses[i].size));
    others.top = std::max(others.top, double(losses[i].top));
    others.large = std::min(others.large, std::int64_t(losses[i].large));
  }
  return others;
}

double loss_against(const LaneLoss& lane, double size, double top) {
  return std::min(double(lane.largest) * size, double(lane.total) * top);
}

/// True if what a lane loses is harmless whatever it meets: at most u of (|A||B|)_ij, as both sides
/// may lose.
bool is_harmless(const LaneLoss& lane, const Others& others, std::int64_t depth) {
  if (lane.largest == 0 || others.top == 0) return true;
  const double meeting = double(lane.large + others.large - depth);
  return loss_against(lane, others.size, others.top) <= kUnit * meeting * kMeeting;
}

double load(const Target& sums, std::int64_t row, std::int64_t column) {
  const std::byte* const from = static_cast<const std::byte*>(sums.data) + row * sums.row_stride +
                                column * sums.column_stride;
  double value;
  float single;
  if (sums.dtype == DType::float64) {
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  std::memcpy(&single, from, sizeof single);
  return single;
}

}  // namespace

void Accuracy::note(std::int64_t row, std::int64_t rows, std::int64_t depth,
                    const LaneLoss* row_losses, const double* row_scales,
                    const LaneLoss* column_losses, const double* column_scales) {
  const auto loses = [](const LaneLoss& lane) { return lane.largest != 0; };
  if (std::none_of(row_losses, row_losses + rows, loses) &&
      std::none_of(column_losses, column_losses + columns_, loses))
    return;
  const Others of_rows = others_of(column_losses, columns_);
  const Others of_columns = others_of(row_losses, rows);
  bool harmless = true;
  for (std::int64_t i = 0; i < rows; ++i) harmless &= is_harmless(row_losses[i], of_rows, depth);
  for (std::int64_t j = 0; j < columns_; ++j)
    harmless &= is_harmless(column_losses[j], of_columns, depth);
  if (harmless) return;

  Tile tile{.row = row, .depth = depth};
  tile.rows.reserve(std::size_t(rows));
  for (std::int64_t i = 0; i < rows; ++i) tile.rows.push_back({row_losses[i], row_scales[i]});
  tile.columns.reserve(std::size_t(columns_));
  for (std::int64_t j = 0; j < columns_; ++j)
    tile.columns.push_back({column_losses[j], column_scales[j]});
  tiles_.push_back(std::move(tile));
}

std::optional<std::vector<std::pair<std::int64_t, std::int64_t>>> Accuracy::doubtful(
    const Target& sums, std::int64_t most) const {
  std::vector<std::pair<std::int64_t, std::int64_t>> elements;
  std::vector<double> losses(static_cast<std::size_t>(columns_));
  for (std::int64_t row = 0; row < rows_; ++row) {
    std::fill(losses.begin(), losses.end(), 0.0);
    for (const Tile& tile : tiles_) {
      const std::int64_t within = row - tile.row;
      if (within < 0 || within >= std::int64_t(tile.rows.size())) continue;
      const auto& [of_row, row_scale] = tile.rows[std::size_t(within)];
      for (std::size_t j = 0; j < losses.size(); ++j) {
        const auto& [of_column, column_scale] = tile.columns[j];
        const double loss = loss_against(of_row, of_column.size, of_column.top) +
                            loss_against(of_column, of_row.size, of_row.top);
        const auto meeting = std::int64_t(of_row.large) + of_column.large - tile.depth;
        if (loss > 2 * kUnit * double(std::max<std::int64_t>(meeting, 0)) * kMeeting)
          losses[j] += loss * row_scale * column_scale;
      }
    }
    for (std::int64_t column = 0; column < columns_; ++column) {
      const double sum = std::fabs(load(sums, row, column));
      if (losses[std::size_t(column)] <= std::max(4 * kUnit * sum, kInvisible)) continue;
      if (std::int64_t(elements.size()) == most) return std::nullopt;
      elements.emplace_back(row, column);
    }
  }
  return elements;
}

std::int64_t most_doubtful(std::int64_t elements) { return std::max(kFew, elements / kOneOf); }

}  // namespace npublas
