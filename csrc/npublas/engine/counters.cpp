#include "npublas/engine/counters.hpp"

#include <atomic>

#include "npublas/exec/trace.hpp"

namespace npublas {
namespace {

struct Cell {
  std::atomic<std::uint64_t> products{0}, fallbacks{0}, macs{0}, nanoseconds{0};
};

Cell cells[kReasons][kDTypes];
Cell simulated_cells[kDTypes];  // of Reason::npu
std::atomic<bool> simulated_now{false};

void reset(Cell& cell) {
  cell.products = 0;
  cell.fallbacks = 0;
  cell.macs = 0;
  cell.nanoseconds = 0;
}

Count count_in(const Cell& cell, Reason reason, DType dtype, bool simulated) {
  return {.reason = reason,
          .dtype = dtype,
          .simulated = simulated,
          .products = cell.products,
          .fallbacks = cell.fallbacks,
          .flops = 2.0 * double(cell.macs),
          .seconds = double(cell.nanoseconds) * 1e-9};
}

}  // namespace

void count(DType in, const Shape& shape, Reason reason, bool fallback, double seconds) noexcept {
  constexpr auto relaxed = std::memory_order_relaxed;
  const bool simulated = reason == Reason::npu && simulated_now.load(relaxed);
  Cell& cell = simulated ? simulated_cells[int(in)] : cells[int(reason)][int(in)];
  const std::uint64_t products = std::uint64_t(shape.batch);
  cell.products.fetch_add(products, relaxed);
  cell.macs.fetch_add(
      products * std::uint64_t(shape.m) * std::uint64_t(shape.k) * std::uint64_t(shape.n), relaxed);
  if (fallback) cell.fallbacks.fetch_add(products, relaxed);
  if (trace::is_on()) [[unlikely]]
    trace::end_product_now(shape, in, std::uint8_t(reason), fallback, simulated, seconds);
  if (seconds > 0) cell.nanoseconds.fetch_add(std::uint64_t(seconds * 1e9), relaxed);
}

void count_as_simulated(bool simulated) noexcept { simulated_now = simulated; }

std::vector<Count> counts() {
  std::vector<Count> counts;
  for (int dtype = 0; dtype < kDTypes; ++dtype) {
    if (const Cell& cell = simulated_cells[dtype]; cell.products != 0)
      counts.push_back(count_in(cell, Reason::npu, DType(dtype), true));
    for (int reason = 0; reason < kReasons; ++reason)
      if (const Cell& cell = cells[reason][dtype]; cell.products != 0)
        counts.push_back(count_in(cell, Reason(reason), DType(dtype), false));
  }
  return counts;
}

void reset_counts() {
  trace::reset_busy();
  for (Cell& cell : simulated_cells) reset(cell);
  for (auto& row : cells)
    for (Cell& cell : row) reset(cell);
}

}  // namespace npublas
