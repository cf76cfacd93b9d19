#include "npublas/engine/counters.hpp"

#include <atomic>

namespace npublas {
namespace {

struct Cell {
  std::atomic<std::uint64_t> products{0}, fallbacks{0}, macs{0}, nanoseconds{0};
};

Cell cells[kReasons][kDTypes];

}  // namespace

void count(DType in, const Shape& shape, Reason reason, bool fallback, double seconds) noexcept {
  constexpr auto relaxed = std::memory_order_relaxed;
  Cell& cell = cells[int(reason)][int(in)];
  const std::uint64_t products = std::uint64_t(shape.batch);
  cell.products.fetch_add(products, relaxed);
  cell.macs.fetch_add(
      products * std::uint64_t(shape.m) * std::uint64_t(shape.k) * std::uint64_t(shape.n), relaxed);
  if (fallback) cell.fallbacks.fetch_add(products, relaxed);
  if (seconds > 0) cell.nanoseconds.fetch_add(std::uint64_t(seconds * 1e9), relaxed);
}

std::vector<Count> counts() {
  std::vector<Count> counts;
  for (int reason = 0; reason < kReasons; ++reason) {
    for (int dtype = 0; dtype < kDTypes; ++dtype) {
      const Cell& cell = cells[reason][dtype];
      if (cell.products == 0) continue;
      counts.push_back({.reason = Reason(reason),
                        .dtype = DType(dtype),
                        .products = cell.products,
                        .fallbacks = cell.fallbacks,
                        .flops = 2.0 * double(cell.macs),
                        .seconds = double(cell.nanoseconds) * 1e-9});
    }
  }
  return counts;
}

void reset_counts() {
  for (auto& row : cells) {
    for (Cell& cell : row) {
      cell.products = 0;
      cell.fallbacks = 0;
      cell.macs = 0;
      cell.nanoseconds = 0;
    }
  }
}

}  // namespace npublas
