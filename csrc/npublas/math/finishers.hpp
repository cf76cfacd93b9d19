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

/// Finishes columns up to the first ones, of a vector, of which one is out of the ordinary. Says how
/// many it has finished; those behind them are as they were.
using Finish = std::int64_t (*)(const FinishRow& row, bool& underflow);

/// Of one set of instructions.
struct Finishers {
  Finish (*of)(DType sums, DType target);
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
