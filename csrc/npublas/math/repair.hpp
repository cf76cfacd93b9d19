// # Repairs
// The elements whose accuracy isn't certain (accuracy.hpp) are computed again from the operands, in
// double:
//
//   for a group of rows of A, or columns of B, whichever are fewer:     kept
//     for k in pieces of 1024:
//       gather the group
//       for a few lanes of the other side:                              streamed
//         gather them
//         add the products of the elements where the two meet
//
// so that each lane that is needed is read once and contiguous while it is multiplied; the streamed
// ones once for each group. Memory is bounded whatever the depth. An element's sum is made in an
// order that K alone decides, so that it doesn't matter which others are repaired with it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas {

class Repair {
 public:
  /// Of the product of the rows `a` and the columns `b`, equally deep and of any float types
  /// (float64 counts as rounded to float32): the elements (row, column) that are given.
  Repair(const Lanes& a, const Lanes& b,
         const std::vector<std::pair<std::int64_t, std::int64_t>>& elements);

  /// Some milliseconds of work. Reads the operands, and stores in `sums` (float32 or float64, the
  /// elements of the constructor) what is finished. False if there is nothing left to do.
  bool step(const Target& sums);

  /// False if a stored element is beyond the range of float32.
  bool finite() const { return finite_; }

 private:
  struct Element {
    std::int64_t kept;      // an index of kept_lanes_
    std::int64_t streamed;  // the lane itself
    double sum;
  };

  void begin_group();
  std::int64_t multiply_some();
  void store_group(const Target& sums);

  Lanes kept_, streamed_;
  bool keeps_columns_;
  std::vector<std::int64_t> kept_lanes_;  // those that are needed, in order
  std::vector<Element> elements_;         // by group, then by streamed lane
  std::vector<double> kept_piece_, streamed_piece_;

  std::size_t begin_ = 0, end_ = 0;  // the elements of the group
  std::size_t next_ = 0;             // of them, for this piece
  std::int64_t from_ = 0;            // the depth at which it begins
  bool finite_ = true;
};

}  // namespace npublas
