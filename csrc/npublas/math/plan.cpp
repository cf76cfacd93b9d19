#include "npublas/math/plan.hpp"

#include <algorithm>

#include "npublas/base/integers.hpp"
#include "npublas/math/int4.hpp"

namespace npublas {
namespace {

// Where product and partial sums together take the least (benchmarks/bound.py): the deeper a tile,
// the fewer rows stay on chip beside it; the shallower, the more sums cross the memory, which the
// host reads, too. Of int4, as deep as sums of two parts by quantised weights are certain to fit
// int16.
constexpr std::int64_t kBestDepth[kElements] = {2048, 1024,
                                                certified_depth(kInt4Max, kInt4WeightMax)};

std::size_t pages(std::int64_t bytes) { return std::size_t(round_up(bytes, std::int64_t(kPage))); }

bool is_split(const Plan& p) { return p.method == Method::float32; }

}  // namespace

std::int64_t Plan::blocks() const { return shape.batch * ceil_div(shape.m, block_rows) * panels(); }

Block Plan::block(std::int64_t index) const {
  const std::int64_t across = panels(), down = ceil_div(shape.m, block_rows);
  const std::int64_t column = index % across * block_columns;
  const std::int64_t row = index / across % down * block_rows;
  return {.batch = index / across / down,
          .row = row,
          .rows = std::min(block_rows, shape.m - row),
          .column = column,
          .columns = std::min(block_columns, shape.n - column)};
}

std::int64_t Plan::surface_rows() const {
  if (is_split(*this)) return layout == Layout::normal ? 2 * tile_rows : tile_rows;
  return parts == 1 ? tile_rows : round_up(parts * tile_rows, 4);
}

std::int64_t Plan::run_rows() const {
  return is_split(*this) && !low.a ? tile_rows : surface_rows();
}

std::int64_t Plan::surface_depth() const { return round_up(tile_depth, kDepthStep); }
std::int64_t Plan::depth_tiles() const { return ceil_div(shape.k, tile_depth); }
std::int64_t Plan::panels() const { return ceil_div(shape.n, block_columns); }

std::int64_t Plan::row_tiles() const {
  const std::int64_t full = shape.m / block_rows, rest = shape.m % block_rows;
  return full * ceil_div(block_rows, tile_rows) + ceil_div(rest, tile_rows);
}

std::int64_t Plan::steps() const { return shape.batch * row_tiles() * panels() * depth_tiles(); }

int Plan::runs_per_step() const {
  if (!is_split(*this)) return 1;
  return 1 + (low.a && layout == Layout::native ? 1 : 0) + (low.b ? 1 : 0);
}

std::size_t Plan::a_slot_bytes() const {
  const auto one = [this](std::int64_t rows) {
    return pages(std::int64_t(bytes_of(element, std::size_t(rows * surface_depth()))));
  };
  if (!is_split(*this)) return one(surface_rows());
  return layout == Layout::normal ? one(2 * tile_rows) : 2 * one(tile_rows);
}

std::size_t Plan::b_slot_bytes() const {
  const std::size_t one =
      pages(std::int64_t(bytes_of(element, std::size_t(surface_depth() * tile_columns))));
  return is_split(*this) ? 2 * one : one;
}

std::size_t Plan::sum_slot_bytes() const {
  const auto one = [this](std::int64_t rows) {
    return pages(rows * tile_columns * std::int64_t(bytes_of_sum(element)));
  };
  if (!is_split(*this)) return one(surface_rows());
  return layout == Layout::normal ? one(2 * tile_rows) + one(tile_rows) : 3 * one(tile_rows);
}

std::size_t Plan::window_bytes() const {
  // float32 in normal layout has contexts of two heights.
  const std::size_t heights = is_split(*this) && layout == Layout::normal ? 2 : 1;
  return std::size_t(a_slots) * a_slot_bytes() + std::size_t(b_slots) * b_slot_bytes() +
         std::size_t(cores) *
             (kSumSlots * sum_slot_bytes() + kRunsInFlight * heights * kContextBytes);
}

int Plan::files() const {
  const bool normal = layout == Layout::normal;
  const int surfaces = is_split(*this) ? (normal ? 2 : 3) : 1;  // of sums
  const int heights = is_split(*this) && normal ? 2 : 1;
  const std::int64_t slots = (is_split(*this) && !normal ? 2 * a_slots : a_slots) +
                             (is_split(*this) ? 2 * b_slots : b_slots);
  return int(slots) + cores * (kSumSlots * surfaces + 2 * kRunsInFlight * heights);
}

std::int64_t depth_of_tiles(std::int64_t k, std::int64_t n, Method method, std::int64_t max_depth) {
  (void)n;  // part of the promise, not yet of the rule
  const std::int64_t most =
      std::min(kBestDepth[int(element_of(method))], max_depth / kDepthStep * kDepthStep);
  // Equal tiles rather than a full one and a sliver; all of one depth, so that one context serves.
  return round_up(ceil_div(k, ceil_div(k, most)), kDepthStep);
}

std::int64_t round_rows(std::int64_t rows) {
  if (rows <= 1) return 1;
  if (rows <= 16) return round_up(rows, 4);
  if (rows <= 512) return round_up(rows, 16);
  if (rows <= 1024) return round_up(rows, 32);
  return round_up(rows, 64);
}

std::int64_t columns_of_weights(std::int64_t batch, std::int64_t n, Method method) {
  // The same for each core, so that one row of A keeps all of them busy; but what is narrow makes
  // the chip read A once more for each panel, and rows of C beyond 4 KiB are written slowly.
  constexpr std::int64_t kMost = 1408, kNarrow = 448, kOne = 512;
  constexpr std::int64_t cores = PlanLimits{}.cores;
  const std::int64_t wanted = ceil_div(cores, batch);
  const std::int64_t parts =
      n >= wanted * kNarrow ? round_up(ceil_div(n, kMost), wanted) : ceil_div(n, kOne);
  return round_up(ceil_div(n, parts), column_step(element_of(method)));
}

}  // namespace npublas
