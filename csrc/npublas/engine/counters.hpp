// # Counters
// What ran where, and why not on the NPU: one cell for each (reason, type), counted with relaxed
// atomic additions because it happens on every call.
#pragma once

#include <cstdint>
#include <vector>

#include "npublas/engine/product.hpp"

namespace npublas {

struct Count {
  Reason reason;
  DType dtype;
  bool simulated;  ///< of what ran on the NPU
  std::uint64_t products;
  std::uint64_t fallbacks;  ///< of the products: decided for, or demanded of, the NPU
  double flops;
  double seconds;  ///< wall clock on the NPU path; 0 for the CPU, which isn't timed
};

/// Counts the products of one call of a loop (`shape.batch` of them); the end of one that is
/// traced.
void count(DType in, const Shape& shape, Reason reason, bool fallback, double seconds) noexcept;
/// What runs on the NPU from now on is counted as simulated, or not.
void count_as_simulated(bool simulated) noexcept;
/// The cells that are not empty. How busy the cores were is in exec/trace.hpp.
std::vector<Count> counts();
void reset_counts();  ///< and how busy the cores were

}  // namespace npublas
