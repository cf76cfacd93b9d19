#include "npublas/engine/limits.hpp"

#include <atomic>

namespace npublas {
namespace {

constexpr PlanLimits kDefaults;
std::atomic<std::int64_t> rows{kDefaults.max_rows}, columns{kDefaults.max_columns};
std::atomic<std::int64_t> depth[kElements] = {kDefaults.max_depth, kDefaults.max_depth,
                                              kDefaults.max_depth};
std::atomic<bool> may_be_row_major[kElements] = {true, true, false};
std::atomic<std::size_t> window{kDefaults.window_bytes};
std::atomic<int> cores{kDefaults.cores}, files{kDefaults.files};

}  // namespace

PlanLimits current_limits(Element element) noexcept {
  constexpr auto relaxed = std::memory_order_relaxed;
  return {.max_rows = rows.load(relaxed),
          .max_columns = columns.load(relaxed),
          .max_depth = depth[int(element)].load(relaxed),
          .window_bytes = window.load(relaxed),
          .cores = cores.load(relaxed),
          .row_major = may_be_row_major[int(element)].load(relaxed),
          .files = files.load(relaxed)};
}

void set_limits(const PlanLimits& limits, const int (&depths)[kElements],
                const bool (&row_major)[kElements]) noexcept {
  rows = limits.max_rows;
  columns = limits.max_columns;
  for (int i = 0; i < kElements; ++i) depth[i] = depths[i];
  for (int i = 0; i < kElements; ++i) may_be_row_major[i] = row_major[i];
  window = limits.window_bytes;
  cores = limits.cores;
  files = limits.files;
}

void reset_limits() noexcept {
  constexpr int most = int(kDefaults.max_depth);
  constexpr int depths[kElements] = {most, most, most};
  constexpr bool row_major[kElements] = {true, true, false};
  set_limits(kDefaults, depths, row_major);
}

}  // namespace npublas
