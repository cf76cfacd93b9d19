#include "npublas/math/plan.hpp"

#include <algorithm>
#include <cstdlib>

#include "npublas/base/integers.hpp"
#include "npublas/base/on_chip.hpp"
#include "npublas/math/int4.hpp"

namespace npublas {
namespace {

// Where the chip is fast (the deeper a tile, the fewer rows stay on chip beside it; the shallower,
// the more partial sums cross the memory): about 1024 for int8 and 512 to 1024 for float16.
// Of int4, as deep as sums of two parts by quantised weights are certain to fit int16.
constexpr std::int64_t kBestDepth[kElements] = {2048, 1024,
                                                certified_depth(kInt4Max, kInt4WeightMax)};
constexpr std::int64_t kBestRows = 512;
constexpr std::int64_t kBestColumns = 1024;
constexpr std::int64_t kNarrowest = 128;  // splitting N below this costs more than it spreads
// Sums of a block that wait in float32 for their last K tile must stay in a few MiB.

std::size_t pages(std::int64_t bytes) { return std::size_t(round_up(bytes, std::int64_t(kPage))); }

}  // namespace

std::int64_t Plan::blocks() const { return shape.batch * ceil_div(shape.m, block_rows) * panels(); }
std::int64_t Plan::panels() const { return ceil_div(shape.n, block_columns); }
Block Plan::block(std::int64_t index) const {
  const std::int64_t down = ceil_div(shape.m, block_rows), across = panels();
  const std::int64_t column = index % across * block_columns;
  const std::int64_t row = index / across % down * block_rows;
  return {.batch = index / down / across,
          .row = row,
          .rows = std::min(block_rows, shape.m - row),
          .column = column,
          .columns = std::min(block_columns, shape.n - column)};
}
std::int64_t Plan::surface_rows() const {
  if (method == Method::float32 && layout == Layout::normal) return 2 * tile_rows;
  return parts == 1 ? tile_rows : round_up(parts * tile_rows, 4);
}
std::int64_t Plan::surface_depth() const { return round_up(tile_depth, kDepthStep); }
std::int64_t Plan::depth_tiles() const { return ceil_div(shape.k, tile_depth); }
std::int64_t Plan::row_tiles() const { std::int64_t n=0; for (std::int64_t r=0;r<shape.m;r+=block_rows) n+=ceil_div(std::min(block_rows,shape.m-r),tile_rows); return n; }
std::int64_t Plan::steps() const { return shape.batch*row_tiles()*depth_tiles()*panels(); }
int Plan::runs_per_step() const { return method == Method::float32 ? (layout == Layout::normal ? 2 : 3) : 1; }
std::size_t Plan::a_slot_bytes() const { return pages(std::int64_t(bytes_of(element, std::size_t(surface_rows()*surface_depth())))) * (method==Method::float32&&layout==Layout::native?2:1); }
std::size_t Plan::b_slot_bytes() const { return pages(std::int64_t(bytes_of(element, std::size_t(tile_columns*surface_depth())))) * (method==Method::float32?2:1); }
std::size_t Plan::sum_slot_bytes() const { return pages(std::int64_t(bytes_of_sum(element)) * surface_rows()*tile_columns) * (method==Method::float32&&layout==Layout::native?3:1)+ (method==Method::float32&&layout==Layout::normal?pages(4*tile_rows*tile_columns):0); }
std::size_t Plan::window_bytes() const { return std::size_t(a_slots)*a_slot_bytes()+std::size_t(b_slots)*b_slot_bytes()+std::size_t(cores)*(kSumSlots*sum_slot_bytes()+4*kContextBytes); }
int Plan::files() const { return int(2*a_slots+2*b_slots+cores*17); }

std::int64_t depth_of_tiles(std::int64_t k, std::int64_t n, Method method, std::int64_t max_depth) {
  (void)n;                                        // part of the promise, not yet of the rule
  if (method == Method::float32) max_depth /= 2;  // the two cross terms are one product over 2K
  const std::int64_t most =
      std::min(kBestDepth[int(element_of(method))], max_depth / kDepthStep * kDepthStep);
  // Equal tiles rather than a full one and a sliver; all of one depth, so that one context serves.
  return round_up(ceil_div(k, ceil_div(k, most)), kDepthStep);
}

std::int64_t round_rows(std::int64_t rows) {
  if (rows <= 1) return 1;
  if (rows <= 16) return round_up(rows, 4);
  if (rows <= 64) return round_up(rows, 16);
  if (rows <= 256) return round_up(rows, 32);
  return round_up(rows, 64);
}

namespace {

/// The width of B's tiles if there are to be at least `across` of them, and a multiple of `wanted`
/// if there are more; itself a multiple of `step`.
std::int64_t columns_of_tiles(std::int64_t n, std::int64_t across, std::int64_t wanted,
                              std::int64_t most, std::int64_t step) {
  const std::int64_t columns = std::min(round_up(ceil_div(n, across), step), most);
  const std::int64_t blocks = ceil_div(n, columns);
  if (blocks == 1) return columns;
  // Where there are more columns than one tile has, their blocks are shared out evenly.
  const std::int64_t even = round_up(blocks, wanted);
  return round_up(ceil_div(n, n / even >= kNarrowest ? even : blocks), step);
}

}  // namespace

std::int64_t columns_of_weights(std::int64_t batch, std::int64_t n, Method method) {
  constexpr std::int64_t cores = PlanLimits{}.cores;
  const std::int64_t wanted = ceil_div(cores, batch);
  return columns_of_tiles(n, std::clamp<std::int64_t>(n / kNarrowest, 1, wanted), wanted,
                          kBestColumns, column_step(element_of(method)));
}

namespace {

/// The rows of A that a run may take; a multiple of 4.
std::int64_t highest_tile(const Plan& p, std::int64_t max_rows) {
  std::int64_t rows = std::min(kBestRows, max_rows / p.parts / 4 * 4);
  if (p.element != Element::int4) return rows;
  while (rows > 4 && !int4_is_one_task(p.parts * rows, p.surface_depth())) rows -= 4;
  return rows;
}

}  // namespace

std::optional<Plan> plan(const PlanQuery& query, const PlanLimits& limits, const Rates&) {
  const Shape& shape = query.shape; const Method method = query.method; const auto& packed = query.packed; const auto& way = query.way;
  const bool is_int4 = method == Method::int4;
  const std::int64_t step = column_step(element_of(method));
  const std::int64_t most_columns = std::min(kBestColumns, limits.max_columns / step * step);
  Plan p{.shape = shape,
         .method = method,
         .element = is_int4 ? way.element : element_of(method),
         .parts = is_int4 && way.element == Element::int4 ? way.parts : 1,
         .cores = std::max(limits.cores, 1)};

  // The fewest blocks that give every core one: split N first, then M; a stack has blocks anyway.
  const std::int64_t wanted = ceil_div(p.cores, shape.batch);
  std::int64_t across = std::clamp<std::int64_t>(shape.n / kNarrowest, 1, wanted);
  if (packed) {
    const std::int64_t parts = method == Method::float32 ? 2 : 1;
    if (parts * round_up(packed->depth, kDepthStep) > limits.max_depth ||
        packed->columns > limits.max_columns)
      return std::nullopt;
    p.tile_depth = packed->depth;
    p.tile_columns = packed->columns;
    across = std::min(ceil_div(shape.n, packed->columns), wanted);
  } else {
    p.tile_depth = depth_of_tiles(shape.k, shape.n, method, limits.max_depth);
    p.tile_columns = columns_of_tiles(shape.n, across, wanted, most_columns, step);
  }
  const std::int64_t most_rows = highest_tile(p, limits.max_rows);
  const std::int64_t down = std::clamp<std::int64_t>(shape.m / 4, 1, ceil_div(wanted, across));
  const std::int64_t rows = ceil_div(shape.m, down);
  p.tile_rows = std::min(round_rows(ceil_div(rows, ceil_div(rows, most_rows))), most_rows);

  p.layout = p.element != Element::int4 && !std::getenv("NPUBLAS_TMP_NATIVE") ? Layout::normal : Layout::native;
  p.block_columns = std::min(p.tile_columns, shape.n);
  p.block_rows = std::min(round_up(rows, p.tile_rows), shape.m);
  p.cores = int(std::min<std::int64_t>(p.cores, p.blocks()));
  p.a_slots = std::min<std::int64_t>(ceil_div(p.block_rows,p.tile_rows)*p.depth_tiles()*2, 64);
  p.b_slots = std::min<std::int64_t>(p.cores*p.depth_tiles()*2, 64);
  while (p.window_bytes() > limits.window_bytes) {
    if (p.a_slots > 4) p.a_slots /= 2; else if (p.b_slots > 4) p.b_slots /= 2;
    else if (!packed && p.tile_columns > step) { p.tile_columns = round_up(p.tile_columns/2, step); p.block_columns = std::min(p.tile_columns, shape.n);}
    else if (p.tile_rows > 4) { p.tile_rows = round_up(p.tile_rows/2,4); p.block_rows = std::min(round_up(rows, p.tile_rows), shape.m);}
    else if (p.cores>1) --p.cores; else if (p.a_slots>1) p.a_slots=1; else if (p.b_slots>1) p.b_slots=1; else return std::nullopt;
  }
  return p;
}

}  // namespace npublas
