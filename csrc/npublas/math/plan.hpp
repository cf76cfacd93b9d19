// # Planning
// The NPU multiplies one small product at a time, so a large one is cut into tiles:
//
//   for each block of the result (a range of rows × a panel of columns), the cores taking turns:
//     for m in tiles of rows:
//       for k in steps of depth:     partial sums are added on the CPU, in this order
//         A(m, k) and B(k, panel)    packed once, kept in slots that all cores share
//         run, unpack
//
// Where K is cut depends on (K, N, type) alone, so that a result never depends on M, on the number
// of cores, or on the memory window. All other sizes are those that are predicted to take the least
// time (search.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "npublas/base/matrix.hpp"
#include "npublas/math/layout.hpp"
#include "npublas/math/method.hpp"
#include "npublas/math/rates.hpp"

namespace npublas {

/// What one context may be, and what there is to share.
struct PlanLimits {
  std::int64_t max_rows = 2044;     ///< M per context
  std::int64_t max_columns = 8192;  ///< N per context
  std::int64_t max_depth = 8192;    ///< K per context, of this type
  std::size_t window_bytes = std::size_t(1) << 30;
  int cores = 3;
  bool row_major = true;  ///< A and C may be so; native otherwise
  int files = 448;        ///< open at a time: each surface is one, each context two

  bool operator==(const PlanLimits&) const = default;
};

/// Of float32's operands, which have a low part somewhere. Time is planned for these; what turns
/// out to be otherwise (a float16 that needs two parts because others of its row are so large) is
/// run all the same, and gives the same bits.
struct LowParts {
  bool a = true, b = true;

  bool operator==(const LowParts&) const = default;
};

/// A block of the result, of one product of the stack: the unit that a core takes.
struct Block {
  std::int64_t batch;
  std::int64_t row, rows;
  std::int64_t column, columns;
};

/// The surfaces of sums that a core has: one that is being unpacked, one that is being written, and
/// one for the run that waits behind it.
inline constexpr int kSumSlots = 3;
/// Runs of a core that are under way at a time, each with a context of its own: the second waits in
/// the driver's queue, so that the core goes from one to the next without the host.
inline constexpr int kRunsInFlight = 2;

struct Plan {
  Shape shape;
  Method method;
  Element element;             ///< that is multiplied
  int parts;                   ///< of A in one run, one below the other: two of some int4 products
  int cores;                   ///< that have something to do
  Layout layout;               ///< of A and C
  std::int64_t tile_rows;      ///< of the operands: 1 or a multiple of 4
  std::int64_t tile_depth;     ///< of the operands; a context has the next multiple of 32
  std::int64_t tile_columns;   ///< a multiple of 32 (int4: 64)
  std::int64_t block_rows;     ///< of the result: a multiple of tile_rows, or all of M
  std::int64_t block_columns;  ///< at most tile_columns; the last block may have fewer
  std::int64_t a_slots;        ///< packed tiles of A, all cores together
  std::int64_t b_slots;        ///< packed tiles of B, all cores together
  LowParts low = {};           ///< that are expected; there is room for all, whatever comes

  std::int64_t blocks() const;
  /// Within a product of the stack, row blocks are outermost: their tiles of A stay for all panels.
  Block block(std::int64_t index) const;

  /// Of the first run, as expected: both parts of A, if float32 in normal layout has both.
  std::int64_t run_rows() const;
  /// Of the highest context. float32 in normal layout multiplies both parts of A by one of B, one
  /// part below the other: 2 · tile_rows.
  std::int64_t surface_rows() const;
  std::int64_t surface_depth() const;
  std::int64_t depth_tiles() const;
  std::int64_t row_tiles() const;  ///< of a product, all its row blocks together
  std::int64_t panels() const;     ///< of a product
  std::int64_t steps() const;      ///< (tile of rows, K tile, panel), of the whole stack
  /// Of a step, as expected: those of parts that are zero are left out.
  int runs_per_step() const;
  std::int64_t runs() const { return runs_per_step() * steps(); }

  // The surfaces, in whole pages; of float32, of all parts.
  std::size_t a_slot_bytes() const;
  std::size_t b_slot_bytes() const;
  std::size_t sum_slot_bytes() const;
  /// Of the window, at a time: the slots, and each core's sums and contexts.
  std::size_t window_bytes() const;
  int files() const;

  bool operator==(const Plan&) const = default;
};

/// The tiles of a B that was packed before.
struct PackedTiles {
  std::int64_t depth, columns;

  bool operator==(const PackedTiles&) const = default;
};

/// How the method `int4` runs. Its K tiles, and so its results, are the same in each way.
struct Int4Way {
  Element element;  ///< int4, or int8: the weights are unpacked into the window
  int parts;        ///< int4: of A, 1 or 2

  bool operator==(const Int4Way&) const = default;
};

/// Bytes of an element, as the caller has it.
struct SourceBytes {
  int a = 4, b = 4, out = 4;

  bool operator==(const SourceBytes&) const = default;
};

/// All that a plan depends on, but the limits and the rates.
struct PlanQuery {
  Shape shape;
  Method method;
  std::optional<PackedTiles> packed =
      std::nullopt;                  ///< B comes in these; otherwise they are chosen
  Int4Way way = {Element::int4, 2};  ///< for the method `int4`
  SourceBytes bytes = {};
  LowParts low = {};  ///< for the method `float32`: what is known of the operands

  bool operator==(const PlanQuery&) const = default;
};

/// The K tile of a product: the runtime's limit permitting, a function of K, N and the method
/// alone, which is a function of the types.
std::int64_t depth_of_tiles(std::int64_t k, std::int64_t n, Method method, std::int64_t max_depth);

/// Cuts the product (no dimension 0) within `limits`, so that it takes the least time by `rates`.
/// Every (batch, m, n) lies in exactly one block and every k in exactly one depth tile. Uses fewer
/// slots and fewer cores rather than more memory than the window; nothing if not even one tile fits
/// it.
std::optional<Plan> plan(const PlanQuery& query, const PlanLimits& limits,
                         const Rates& rates = target_rates());

/// The width of the tiles of a B that is packed before M, the window and the cores are known.
std::int64_t columns_of_weights(std::int64_t batch, std::int64_t n, Method method);

/// Rounds a number of rows up to one that contexts are made for, so that few contexts serve many
/// shapes: 1, or a multiple of 4 (the only heights at which native surfaces are right everywhere).
std::int64_t round_rows(std::int64_t rows);

/// What a context takes beside its surfaces: the runtime's own two buffers, a page each.
inline constexpr std::size_t kContextBytes = 8192;
inline constexpr std::size_t kPage = 4096;

}  // namespace npublas
