// # Finishers
// The loops of finishing (finish.hpp) that are compiled once for each set of instructions. They
// take what is ordinary: results that are zero or normal numbers of their type, or subnormal
// float16. Everything else, and whatever machines have no such loops, is finish.cpp's own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/cpu_features.hpp"
#include "npublas/base/dtype.hpp"
#include "npublas/math/finish.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {

/// Columns are finished in multiples of these, which every machine's vectors divide.
inline constexpr int kFinishedTogether = 16;

/// Some of a row. Neighbours, and nothing has to be aligned.
struct FinishRow {
  const void* sums;
  double alpha, beta;
  const double* bias;  ///< or null
  const void* before;  ///< what was there; null if beta is 0
  bool relu;
  std::int64_t columns;  ///< a multiple of `kFinishedTogether`
  void* results;
};

/// Finishes columns up to the first ones, of a vector, of which one is out of the ordinary. Says
/// how many it has finished; those behind them are as they were.
using Finish = std::int64_t (*)(const FinishRow& row, bool& underflow);

/// Some rows of a few neighbouring lines, where a line is as many columns as make 64 bytes of the
/// result: from the surface (as a Strip of unpackers.hpp) to where it belongs, without a stop.
struct FinishStrip {
  const std::uint32_t* main;
  std::ptrdiff_t row_step, group_step;
  const float *row_floats, *column_floats;  ///< powers of two, as all of their products
  const float* bias;                        ///< -0 where there is none
  bool relu;
  std::int64_t rows, lines;
  std::ptrdiff_t next;
  std::byte* to;
  std::ptrdiff_t pitch;
  bool is_native;
  bool streams;  ///< past the caches, to where lines are aligned
};

/// Finishes lines of rows, row by row and then line by line, from `first` on, up to one that has to
/// go the general way, and says which that is: `rows * lines` if there is none.
using FinishLines = std::int64_t (*)(const FinishStrip& strip, std::int64_t first,
                                     SeenInStrips& seen, bool& underflow);

/// Of one set of instructions.
struct Finishers {
  Finish (*of)(DType sums, DType target);
  /// Null if there is none.
  FinishLines (*of_strip)(SumsOf sums, DType target);
  /// Copies past the caches, where whole lines are written.
  void (*stream)(const std::byte* from, std::byte* to, std::size_t bytes);
};

/// Null if there are none.
const Finishers* finishers_for(Isa isa);
#if defined(__x86_64__)
extern const Finishers kAvx2Finishers, kAvx512Finishers;
#elif defined(__aarch64__)
extern const Finishers kNeonFinishers;
#endif

/// `finish`, but for waiting until what was streamed can be seen by others.
Rounded begin_to_finish(const void* sums, DType sums_type, const Epilogue& epilogue,
                        const Target& target);

}  // namespace npublas
