#include "cutting.hpp"

#include <algorithm>

namespace npublas::simulator {
namespace {

constexpr std::int64_t kBanks = 12;
constexpr std::int64_t kBankBytes = 32 << 10;
constexpr std::int64_t kBankEntries = 512;   // of 64 bytes
constexpr std::int64_t kResidentBanks = 8;   // B stays in the buffer if it takes no more
constexpr std::int64_t kMostColumns = 8191;  // what a field of 13 bits holds
constexpr std::int64_t kDeepest = 8192;      // beyond it, row-major rows go one by one
constexpr std::int64_t kWidest = 32768;      // as here

std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Entries of the buffer that `rows` rows of A take; four chunks of 16 bytes fill one.
std::int64_t entries(std::int64_t row_bytes, std::int64_t rows) {
  const std::int64_t chunks = row_bytes / 16;
  const std::int64_t rest = chunks % 4;
  return chunks / 4 * rows + (rest == 3 ? rows : up(rest * rows, 4));
}

struct Tiles {
  std::int64_t rows;
  bool weights_stay = false;
};

Tiles normal_tiles(const Cuttable& p, std::int64_t row_bytes, std::int64_t columns) {
  if (p.depth > kDeepest || p.columns > kWidest || p.bits == 4) return {1};
  const std::int64_t all = up(columns * row_bytes, kBankBytes);
  std::int64_t weights = up(std::min<std::int64_t>(2 * p.group, columns) * row_bytes, kBankBytes);
  if (weights >= kBanks) weights = up(p.group * row_bytes, kBankBytes);
  if (up(p.rows * entries(row_bytes, 1), kBankEntries) <= kBanks - weights) return {p.rows};
  const bool stay = all <= kResidentBanks;
  if (stay) weights = std::max(all, weights);
  return {(kBanks - weights) * kBankEntries / entries(row_bytes, 1), stay};
}

Tiles native_tiles(const Cuttable& p, std::int64_t row_bytes) {
  const std::int64_t group_banks = up(p.group * row_bytes, kBankBytes);
  const std::int64_t banks =  // at least one, for depths that no runtime takes
      std::max<std::int64_t>(kBanks - std::max(kResidentBanks, group_banks), 1);
  if (up(entries(row_bytes, p.rows), kBankEntries) <= banks) return {p.rows};
  std::int64_t rows = banks * kBankBytes / row_bytes;
  if (p.depth <= kDeepest) {
    const bool exact = banks * kBankBytes % row_bytes == 0;
    rows -= exact ? (p.rows % rows ? 2 : 0) : rows % 2;
  }
  return {std::max<std::int64_t>(rows, 1)};
}

}  // namespace

Cut cut(const Cuttable& p) {
  const std::int64_t row_bytes = p.depth * p.bits / 8;
  const std::int64_t step = std::max(p.group, 32);
  Cut result;
  result.piece_columns = std::min(kMostColumns / step * step, p.columns);
  for (std::int64_t first = 0; first < p.columns; first += result.piece_columns) {
    const std::int64_t columns = std::min(result.piece_columns, p.columns - first);
    const Tiles tiles = p.native ? native_tiles(p, row_bytes) : normal_tiles(p, row_bytes, columns);
    const std::int64_t tasks = up(p.rows, tiles.rows);
    const std::int64_t reusing = tiles.weights_stay ? tasks - 1 : 0;
    result.tasks += tasks;
    result.reusing += reusing;
    result.tile_rows = std::max(result.tile_rows, std::min(tiles.rows, p.rows));
    result.b_bytes += (tasks - reusing) * columns * row_bytes;
    result.a_bytes += p.rows * row_bytes;
  }
  result.c_bytes = p.rows * p.columns * p.c_bytes;
  return result;
}

}  // namespace npublas::simulator
