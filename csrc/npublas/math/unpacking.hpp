// # Unpacking one target
// What unpack.cpp says in whole surfaces is done here, in strips (unpackers.hpp), each in the
// simplest way there is for it: straight into the target, stored or streamed; into a buffer in L1
// that is streamed; or into one whose elements are put to where they belong.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/math/unpack.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {

/// Results from this size on are streamed. Half of what a core can hope for of a shared cache.
inline constexpr std::size_t kStreamedFrom = std::size_t(8) << 20;

/// Lines of which only a part will be written have to come from memory: asked for in time, they are
/// there when it is. `first`, `last`: those of the first column, and of the last.
inline void ask_for_edges(const Target& target, std::int64_t size, std::int64_t row,
                          std::int64_t rows, bool first, bool last) {
  const std::byte* const data = static_cast<const std::byte*>(target.data);
  for (std::int64_t r = row; r < row + rows; ++r) {
    const std::byte* const at = data + r * target.row_stride;
    if (first) __builtin_prefetch(at, 1);
    if (last) __builtin_prefetch(at + (target.columns - 1) * size, 1);
  }
}

/// Where sums come from, and what goes with their rows and columns.
struct SumSource {
  const std::uint32_t *main, *a_low, *b_low;
  bool is_native;
  std::ptrdiff_t row_step, group_step;
  const std::byte *of_rows, *of_columns;    // int32 or double
  std::size_t row_size, column_size;        // of these; 0: the same for all
  const float *row_floats, *column_floats;  // see Strip

  /// The same from another row and column on, which is a multiple of 4.
  SumSource from(std::int64_t row, std::int64_t column) const {
    const std::ptrdiff_t first = row * row_step + column / 4 * group_step;
    SumSource source = *this;
    source.main += first;
    if (a_low) source.a_low += first;
    if (b_low) source.b_low += first;
    source.of_rows += std::size_t(row) * row_size;
    source.of_columns += std::size_t(column) * column_size;
    if (row_floats) source.row_floats += row;
    if (column_floats) source.column_floats += column;
    return source;
  }
  /// Elements from a strip's first to the first of the next one, if strips lie side by side from
  /// column `first` to `end`.
  std::ptrdiff_t next_strip(std::int64_t rows, std::int64_t column, std::int64_t columns,
                            std::int64_t first, std::int64_t end) const {
    if (column + columns < end) return columns / 4 * group_step;
    return rows * row_step - (column - first) / 4 * group_step;
  }
};

/// Stores, or adds (`accumulate`). An Error(argument) if the target's type takes no such sums.
void unpack_target(const SumSource& source, SumsOf sums, bool accumulate, const Target& target,
                   SeenInStrips& seen);

}  // namespace npublas
