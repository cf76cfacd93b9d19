#include "npublas/math/plan.hpp"

#include <algorithm>

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
constexpr std::int64_t kBlockElements = std::int64_t(1) << 20;

std::size_t pages(std::int64_t bytes) { return std::size_t(round_up(bytes, std::int64_t(kPage))); }

}  // namespace

std::int64_t Plan::blocks() const {
  return shape.batch * ceil_div(shape.m, block_rows) * ceil_div(shape.n, block_columns);
}

Block Plan::block(std::int64_t index) const {
  const std::int64_t down = ceil_div(shape.m, block_rows);
  const std::int64_t across = ceil_div(shape.n, block_columns);
  const std::int64_t row = index % down * block_rows;
  const std::int64_t column = index / down % across * block_columns;
  return {.batch = index / down / across,
          .row = row,
          .rows = std::min(block_rows, shape.m - row),
          .column = column,
          .columns = std::min(block_columns, shape.n - column)};
}

std::int64_t Plan::surface_rows() const {
  return parts == 1 ? tile_rows : round_up(parts * tile_rows, 4);
}

std::int64_t Plan::surface_depth() const { return round_up(tile_depth, kDepthStep); }

std::int64_t Plan::depth_tiles() const { return ceil_div(shape.k, tile_depth); }

std::int64_t Plan::runs() const {
  std::int64_t runs = 0;
  for (std::int64_t row = 0; row < shape.m; row += block_rows)
    runs += ceil_div(std::min(block_rows, shape.m - row), tile_rows);
  const std::int64_t products = method == Method::float32 ? 2 : 1;
  return products * runs * depth_tiles() * ceil_div(shape.n, block_columns) * shape.batch;
}

std::size_t Plan::bytes_per_core() const {
  const auto elements = [this](std::int64_t rows, std::int64_t columns) {
    return pages(std::int64_t(bytes_of(element, std::size_t(rows * columns))));
  };
  const std::int64_t depth = surface_depth(), rows = surface_rows();
  const std::int64_t sums = rows * tile_columns * std::int64_t(bytes_of_sum(element));
  const std::size_t one =
      elements(rows, depth) + elements(depth, tile_columns) + pages(sums) + kContextBytes;
  if (method != Method::float32) return one;
  // Beside the surfaces of the high parts: A's low parts behind its high ones, and alone; B's low
  // parts above its high ones; a C for the sums of both.
  return one + elements(2 * rows, depth) + elements(2 * depth, tile_columns) + pages(sums) +
         kContextBytes;
}

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

std::optional<Plan> plan(const Shape& shape, Method method, const PlanLimits& limits,
                         const std::optional<PackedTiles>& packed, const Int4Way& way) {
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

  // Into the window: the larger side of C first, then fewer cores. The depth stays as it is.
  while (p.bytes_per_core() * std::size_t(p.cores) > limits.window_bytes) {
    const bool narrower = !packed && p.tile_columns > step;
    if (narrower && p.tile_columns >= p.tile_rows) {
      p.tile_columns = round_up(p.tile_columns / 2, step);
    } else if (p.tile_rows > 4) {
      p.tile_rows = round_up(p.tile_rows / 2, 4);
    } else if (narrower) {
      p.tile_columns = round_up(p.tile_columns / 2, step);
    } else if (p.cores > 1) {
      --p.cores;
    } else {
      return std::nullopt;
    }
  }

  p.block_columns = std::min(p.tile_columns, shape.n);
  const std::int64_t tallest =
      std::max(kBlockElements / p.tile_columns / p.tile_rows, std::int64_t(1));
  p.block_rows = std::min(round_up(rows, p.tile_rows), tallest * p.tile_rows);
  p.block_rows = std::min(p.block_rows, shape.m);
  p.cores = int(std::min<std::int64_t>(p.cores, p.blocks()));
  return p;
}

}  // namespace npublas
