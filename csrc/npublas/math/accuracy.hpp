// # The accuracy of the float32 method
// Two float16 parts keep 22 bits and more of an element unless it is so small beside the largest of
// its lane that a part of it is too small for float16 (`LaneLoss`). What that loses in the result
// is bounded here from what packing noted of each lane, for each element of C, summed over the K
// tiles:
//
//   loss_ij <= min(largest_i · size_j, total_i · top_j) + min(largest_j · size_i, total_j · top_i)
//
// A loss is harmless if it is at most 2u of (|A||B|)_ij (u = 2^-24). That is certain if so many
// elements of both lanes are large that many of them must meet:
//
//   (|A||B|)_ij >= (large_i + large_j - depth) · kLarge²
//
// or, since |C| <= |A||B|, if the sum of the other losses is at most 4u of |C_ij|. What remains is
// doubtful, and computed again from the operands (repair.hpp); or the product is the CPU's, if that
// would be more than a few of its elements. What is doubtful follows from the row and the column
// alone. docs/precision.md has the proof.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas {

class Accuracy {
 public:
  /// Of a block of `rows` × `columns`.
  Accuracy(std::int64_t rows, std::int64_t columns) : rows_(rows), columns_(columns) {}

  /// What was packed for a tile, `depth` deep: rows [row, row + rows) of the block, all columns.
  /// Tiles of one depth come one after the other, from row 0.
  void note(std::int64_t row, std::int64_t rows, std::int64_t depth, const LaneLoss* row_losses,
            const double* row_scales, const LaneLoss* column_losses, const double* column_scales);

  /// True if no element can be doubtful.
  bool certain() const { return tiles_.empty(); }
  /// The elements (row, column) of the block's sums that are doubtful; nothing if they are more
  /// than `most`.
  std::optional<std::vector<std::pair<std::int64_t, std::int64_t>>> doubtful(
      const Target& sums, std::int64_t most) const;

 private:
  struct Lane {
    LaneLoss loss;
    double scale;
  };
  struct Tile {
    std::int64_t row, depth;
    std::vector<Lane> rows, columns;
  };

  std::int64_t rows_, columns_;
  std::vector<Tile> tiles_;  // those with a loss that isn't certainly harmless
};

/// How many elements of a product may be doubtful: 1 in 32, or 16.
std::int64_t most_doubtful(std::int64_t elements);

}  // namespace npublas
