// # Finishers
// The loops of finishing (finish.hpp) that are compiled once for each set of instructions. They
// take what is ordinary: results that are zero or normal numbers of their type, or subnormal
// float16. Everything else, and whatever machines have no such loops, is finish.cpp's own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/cpu_features.hpp"
#include "npublas/base/dtype.hpp"

namespace npublas {

/// Columns that are finished together.
inline constexpr int kFinishedTogether = 64;

/// So many of each, which are neighbours.
struct FinishChunk {
  const void* sums;
  double alpha, beta;
  const double* bias;  ///< or null
  const void* before;  ///< what was there; null if beta is 0
  bool relu;
};

/// Rounds them into `results`. False if one is out of the ordinary; then nothing has happened.
using Finish = bool (*)(const FinishChunk& chunk, void* results, bool& underflow);

/// Null if there are no such loops.
Finish finisher_for(Isa isa, DType sums, DType target);
#if defined(__x86_64__)
Finish finisher_avx2(DType sums, DType target);
Finish finisher_avx512(DType sums, DType target);
#endif

}  // namespace npublas
