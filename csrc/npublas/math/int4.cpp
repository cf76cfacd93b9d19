#include "npublas/math/int4.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace npublas {
namespace {

// The packed loops read and write two neighbours as one little-endian number.
static_assert(std::endian::native == std::endian::little);

constexpr std::int64_t kRun = layout::kBDepth;  // depths that are together in both layouts of B
constexpr std::int64_t kHalf = layout::a_depth(Element::int8);  // and in that of A's bytes

/// 16 numbers to 8 bytes, the lower halves of each. Vectorised by g++ 12.
void join_pairs(const std::uint8_t* values, std::uint8_t* nibbles) {
  std::uint16_t pairs[kHalf / 2];
  std::memcpy(pairs, values, sizeof pairs);
  for (std::int64_t i = 0; i < kHalf / 2; ++i)
    nibbles[i] = std::uint8_t((pairs[i] & 0x0f) | ((pairs[i] >> 4) & 0xf0));
}

/// 16 bytes to 32 numbers.
void split_pairs(const std::uint8_t* nibbles, std::int8_t* values) {
  std::uint16_t pairs[kRun / 2];
  for (std::int64_t i = 0; i < kRun / 2; ++i)
    pairs[i] = std::uint16_t((nibbles[i] & 0x0f) | ((nibbles[i] & 0xf0) << 4));
  std::uint8_t unsigned_values[kRun];
  std::memcpy(unsigned_values, pairs, sizeof pairs);
  for (std::int64_t i = 0; i < kRun; ++i)
    values[i] = std::int8_t(std::uint8_t((unsigned_values[i] ^ 8) - 8));
}

/// Calls `visit(bytes, nibbles)` for every 32 depths of a column: where they lie in both layouts.
template <typename Visit>
void for_each_run(std::int64_t depth, std::int64_t columns, Visit visit) {
  for (std::int64_t first = 0; first < columns; first += layout::b_columns(Element::int4))
    for (std::int64_t d = 0; d < depth; d += kRun)
      for (std::int64_t i = 0; i < layout::b_columns(Element::int4); ++i)
        visit(layout::b_at(Element::int8, d, first + i, depth),
              layout::b_at(Element::int4, d, first + i, depth) / 2);
}

}  // namespace

bool nibbles_of_a(const std::int8_t* bytes, std::int64_t rows, std::int64_t depth, int parts,
                  std::int64_t surface_rows, std::uint8_t* nibbles) {
  const int lowest = parts == 1 ? -kInt4Max : -128, highest = parts == 1 ? 7 : kTwoPartsMax;
  bool beyond = false;
  for (std::int64_t d = 0; d < depth; d += layout::a_depth(Element::int4)) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t half = 0; half < 2; ++half) {
        const std::int8_t* const from =
            bytes + layout::a_at(Element::int8, row, d + half * kHalf, rows);
        std::uint8_t low[kHalf], high[kHalf];
        for (std::int64_t i = 0; i < kHalf; ++i) {
          beyond |= (from[i] < lowest) | (from[i] > highest);
          low[i] = std::uint8_t(from[i]);
          high[i] = std::uint8_t((from[i] + 8) >> 4);
        }
        const std::size_t at =
            layout::a_at(Element::int4, row, d, surface_rows) / 2 + std::size_t(half * kHalf / 2);
        join_pairs(low, nibbles + at);
        if (parts == 2) join_pairs(high, nibbles + at + std::size_t(rows * kHalf));
      }
    }
    std::fill_n(nibbles + layout::a_at(Element::int4, parts * rows, d, surface_rows) / 2,
                (surface_rows - parts * rows) * kHalf, std::uint8_t(0));
  }
  return !beyond;
}

int nibbles_of_b(const std::int8_t* bytes, std::int64_t depth, std::int64_t columns,
                 std::uint8_t* nibbles) {
  int least = 0, most = 0;
  for_each_run(depth, columns, [&](std::size_t from, std::size_t to) {
    std::int8_t lowest = 0, highest = 0;
    std::uint8_t values[kRun];
    for (std::int64_t i = 0; i < kRun; ++i) {
      const std::int8_t value = bytes[from + std::size_t(i)];
      lowest = std::min(lowest, value);
      highest = std::max(highest, value);
      values[i] = std::uint8_t(value);
    }
    least = std::min<int>(least, lowest);
    most = std::max<int>(most, highest);
    join_pairs(values, nibbles + to);
    join_pairs(values + kHalf, nibbles + to + kHalf / 2);
  });
  // 8 is as large as -8, but can't be written.
  return std::max(-least, most == kInt4Max ? kInt4Max + 1 : most);
}

void bytes_of_b(const std::uint8_t* nibbles, std::int64_t depth, std::int64_t columns,
                std::int8_t* bytes) {
  for_each_run(depth, columns,
               [&](std::size_t to, std::size_t from) { split_pairs(nibbles + from, bytes + to); });
}

int largest_nibble(const std::uint8_t* nibbles, std::int64_t depth, std::int64_t columns) {
  int largest = 0;
  for_each_run(depth, columns, [&](std::size_t, std::size_t from) {
    std::int8_t values[kRun];
    split_pairs(nibbles + from, values);
    std::int8_t lowest = 0, highest = 0;
    for (const std::int8_t value : values) {
      lowest = std::min(lowest, value);
      highest = std::max(highest, value);
    }
    largest = std::max({largest, -lowest, int(highest)});
  });
  return largest;
}

bool sums_of_parts(const std::int16_t* surface, std::int64_t surface_rows, int parts,
                   std::int64_t rows, std::int64_t columns, std::int32_t* sums) {
  constexpr std::int64_t kWide = layout::c_columns(Element::int4), kNarrow = layout::kCColumns;
  std::uint16_t any = 0;
  for (std::int64_t column = 0; column < columns; column += kWide) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int16_t* const low =
          surface + layout::c_at(Element::int4, row, column, surface_rows);
      std::int32_t group[kWide];
      for (std::int64_t i = 0; i < kWide; ++i) {
        any |= std::uint16_t(low[i]);
        group[i] = low[i];
      }
      if (parts == 2) {
        const std::int16_t* const high = low + rows * kWide;
        for (std::int64_t i = 0; i < kWide; ++i) {
          any |= std::uint16_t(high[i]);
          group[i] += 16 * high[i];
        }
      }
      std::copy_n(group, kNarrow, sums + layout::c_at(row, column, rows));
      std::copy_n(group + kNarrow, kNarrow, sums + layout::c_at(row, column + kNarrow, rows));
    }
  }
  return any != 0;
}

}  // namespace npublas
