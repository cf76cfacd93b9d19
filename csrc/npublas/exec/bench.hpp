// # The bench
// What a job works with: buffers for packed tiles and for sums, contexts, and what is noted of each
// tile. All of it is borrowed from the window before anything starts, so that a repeated product
// finds it there, and nothing is made while cores wait. (Tiles of weights are buffers of the
// window's own, found when they are needed.)
//
// The float32 method has two parts, high + 2^-12·low, of each operand, and makes three products of
// them, because low·low is below what float32 keeps:
//
//   normal layout   [high_A above low_A] · high_B     one run of twice the rows
//                   high_A · low_B                    in a context of the plain height
//   native layout   high_A · high_B, low_A · high_B, high_A · low_B
//
// Where a low part is zero its product is left out. That doesn't change a bit of the result.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "npublas/exec/window.hpp"
#include "npublas/math/accuracy.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/schedule.hpp"

namespace npublas::exec {

using MemoryLoan = Window::Loan<device::Memory>;
using ContextLoan = Window::Loan<device::Context>;

/// What packing notes of the lanes of a tile.
struct Notes {
  std::vector<double> scales;
  std::vector<std::int32_t> sums;
  std::vector<LaneLoss> losses;

  explicit Notes(std::int64_t lanes)
      : scales(std::size_t(lanes), 1.0), sums(std::size_t(lanes), 0), losses(std::size_t(lanes)) {}
  LaneNotes to_fill() { return {scales.data(), sums.data(), losses.data()}; }
};

struct TileOfA {
  MemoryLoan memory;              ///< float32 in normal layout: both parts
  std::optional<MemoryLoan> low;  ///< float32 in native layout
  Notes notes;
  bool zero = false, low_zero = true;
};

struct TileOfB {
  std::optional<MemoryLoan> memory, low;
  std::optional<Notes> notes;  ///< not of weights, which bring their own
  const double* scales = nullptr;
  const std::int32_t* sums = nullptr;
  const LaneLoss* losses = nullptr;
  bool zero = false, low_zero = true, shifted = false;
};

/// What one thread runs in. `both` is the context for A's two parts at once.
struct Lane {
  ContextLoan context;
  std::optional<ContextLoan> both;
  bool busy = false;  ///< a thread is in it; under the executor's mutex
};

struct Sums {
  MemoryLoan main;  ///< and A's low parts, in normal layout
  std::optional<MemoryLoan> a_low, b_low;
};

/// What belongs to one core.
struct CoreBench {
  CoreBench(int c, Accuracy empty) : core(c), accuracy(std::move(empty)) {}

  int core;
  std::vector<Lane> lanes;
  std::vector<Sums> sums;
  // Of the tile of C that is being unpacked; one at a time.
  std::vector<std::byte> waiting;   ///< sums that aren't kept in C until they are complete
  std::vector<std::int32_t> whole;  ///< of int4 parts
  std::vector<std::int32_t> row_offsets, column_offsets;
  Accuracy accuracy;
};

struct Bench {
  /// Borrows for the plan's cores, the first of which is `first_core`. Throws Error(memory) if the
  /// window has no room, and what device::Context and device::Memory throw; `*core` is the one that
  /// it was for.
  Bench(const Plan& plan, bool weights, Window& window, int first_core, int cores, int* core);

  std::vector<TileOfA> a;
  std::vector<TileOfB> b;
  std::vector<CoreBench> cores;  ///< by stream
};

device::Type type_of(Element element);

}  // namespace npublas::exec
