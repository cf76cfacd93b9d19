// # Planning
// The NPU multiplies one small product at a time, so a large one is cut into tiles:
//
//   for each block of the result (a range of rows × a range of columns), the cores taking turns:
//     for k in steps of depth:       partial sums are added on the CPU, in this order
//       pack the tile of B           once for all rows of the block
//       for m in steps of rows:      A streams past the resident tile of B
//
// Where K is cut depends on (K, N, type) alone, so that a result never depends on M, on the number
// of cores, or on the memory window. All other sizes follow from the window and the cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "npublas/base/matrix.hpp"
#include "npublas/math/layout.hpp"
#include "npublas/math/method.hpp"

namespace npublas {

/// What one context may be, and what there is to share.
struct PlanLimits {
  std::int64_t max_rows = 2044;     ///< M per context
  std::int64_t max_columns = 8192;  ///< N per context
  std::int64_t max_depth = 8192;    ///< K per context, of this type
  std::size_t window_bytes = std::size_t(1) << 30;
  int cores = 3;
};

/// A block of the result, of one product of the stack: the unit that a core takes.
struct Block {
  std::int64_t batch;
  std::int64_t row, rows;
  std::int64_t column, columns;
};

struct Plan {
  Shape shape;
  Method method;
  Element element;            ///< that is multiplied
  int parts;                  ///< of A in one run, one below the other: two of some int4 products
  int cores;                  ///< that have something to do
  std::int64_t tile_rows;     ///< of the operands; a context has `surface_rows()`
  std::int64_t tile_depth;    ///< of the operands; a context has the next multiple of 32
  std::int64_t tile_columns;  ///< a multiple of 32 (int4: 64)
  std::int64_t block_rows;    ///< of the result; the last block may have fewer
  std::int64_t block_columns;

  std::int64_t blocks() const;
  Block block(std::int64_t index) const;  ///< columns outermost within a product of the stack
  std::int64_t surface_rows() const;      ///< of a context: 1 or a multiple of 4
  std::int64_t surface_depth() const;
  std::int64_t depth_tiles() const;
  std::int64_t runs() const;           ///< calls of the runtime in all, at most
  std::size_t bytes_per_core() const;  ///< the surfaces of one tile, in whole pages, and contexts
};

/// The tiles of a B that was packed before.
struct PackedTiles {
  std::int64_t depth, columns;
};

/// How the method `int4` runs. Its K tiles, and so its results, are the same in each way.
struct Int4Way {
  Element element;  ///< int4, or int8: the weights are unpacked into the window
  int parts;        ///< int4: of A, 1 or 2
};

/// The K tile of a product: the runtime's limit permitting, a function of K, N and the method
/// alone, which is a function of the types.
std::int64_t depth_of_tiles(std::int64_t k, std::int64_t n, Method method, std::int64_t max_depth);

/// Cuts `shape` (no dimension 0) within `limits`. Every (batch, m, n) lies in exactly one block and
/// every k in exactly one depth tile. Uses fewer cores rather than more memory than the window;
/// nothing if not even one tile fits it.
/// `packed`: B comes in these tiles; otherwise they are chosen. `way`: for the method `int4`.
std::optional<Plan> plan(const Shape& shape, Method method, const PlanLimits& limits,
                         const std::optional<PackedTiles>& packed = std::nullopt,
                         const Int4Way& way = {Element::int4, 2});

/// The width of the tiles of a B that is packed before M, the window and the cores are known.
std::int64_t columns_of_weights(std::int64_t batch, std::int64_t n, Method method);

/// Rounds a number of rows up to one that contexts are made for, so that few contexts serve many
/// shapes: 1, or a multiple of 4 (the only heights at which native surfaces are right everywhere).
std::int64_t round_rows(std::int64_t rows);

/// What a context takes beside its surfaces: the runtime's own two buffers, a page each.
inline constexpr std::size_t kContextBytes = 8192;
inline constexpr std::size_t kPage = 4096;

}  // namespace npublas
