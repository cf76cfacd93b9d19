// # The schedule
// What can be done next, of one product, and by whom. No threads, no clock and no device: whoever
// has them asks for work, does it, and says so.
//
//   each core has a stream of steps:
//     for each block that the core takes, in turn with the others:
//       for m in steps of tile_rows:
//         for k in steps of tile_depth:        innermost, so that sums are added while in cache
//           pack A(m, k) and B(k, block)       host, unless another stream has had them packed
//           run                                the core, two at a time: one runs, one is queued
//           unpack                             host, in the order of the stream
//
// Packed tiles lie in slots, which all streams share. A step *claims* its two tiles before they are
// packed, and leaves them when it is unpacked; a tile that nobody claims stays until its slot is
// needed, the least recently used first. Steps are claimed in order and with both tiles or not at
// all, so that even one slot of each suffices.
//
// Of all that a host thread could do, it takes what a core will miss first: a tile by the number of
// runs before the one that needs it, an unpacking by the number of sums that still have room.
// When there is nothing else, tiles of B are packed ahead for the blocks that come next.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "npublas/math/plan.hpp"

namespace npublas {

// Per core; fewer than kRunsInFlight and kSumSlots where a core has fewer steps.
int runs_at_once(const Plan& plan);
int sum_buffers(const Plan& plan);

/// What a step multiplies, in the product's own coordinates.
struct Step {
  std::int64_t batch = 0;
  std::int64_t row = 0, rows = 0;
  std::int64_t column = 0, columns = 0;
  std::int64_t k = 0, depth = 0;
  bool last_k = false;
  std::int64_t a_slot = 0, b_slot = 0;
  int sums = 0;  ///< which of its stream's buffers; known once it runs
};

/// Something to do. Tiles of A are named by `step`'s batch, row and k, tiles of B by batch, column
/// and k.
struct Task {
  enum class Kind : std::uint8_t { pack_a, pack_b, run, unpack };
  Kind kind;
  int stream;
  Step step;
};

class Schedule {
 public:
  explicit Schedule(const Plan& plan);

  /// What a host thread may do, the most urgent first; nothing until something is done. `urgency`
  /// is how many runs the core has left until it misses this.
  std::optional<Task> take_host_task(int* urgency = nullptr);
  /// True if it would be given something (packing ahead doesn't count).
  bool has_host_task() const;
  /// The next run of a stream; nothing if it isn't ready, or if there is no room for its sums.
  std::optional<Task> take_run(int stream);
  /// The task was done. What becomes possible by it is given out from now on.
  void done(const Task& task);

  /// Every block was unpacked.
  bool finished() const;
  /// True if `take_run` would give something.
  bool can_run(int stream) const;

 private:
  enum class Phase : std::uint8_t { claimed, running, ran, unpacking };
  struct Pending {
    Step step;
    Phase phase = Phase::claimed;
  };
  struct Tile {
    std::int64_t batch = -1, at = -1, k = -1;  // `at`: a row of A, a column of B
    bool operator==(const Tile&) const = default;
  };
  struct Slot {
    Tile tile;
    enum class State : std::uint8_t { empty, wanted, packing, packed } state = State::empty;
    int claims = 0;
    std::uint64_t used = 0;
  };
  struct Stream {
    std::optional<Block> block;
    std::int64_t m = 0, k = 0;    // of the next step to be claimed, within the block
    std::deque<Pending> pending;  // claimed and not yet unpacked, in order
    int running = 0;
    std::array<bool, kSumSlots> sums_in_use{};
    bool unpacking = false;
  };

  std::optional<Block> take_block();
  bool claim(Stream& stream);
  void claim_all();
  std::optional<std::size_t> find(const std::vector<Slot>& slots, const Tile& tile) const;
  std::optional<std::size_t> make_room(const std::vector<Slot>& slots, bool for_b,
                                       bool gently) const;
  bool is_needed_soon(const Tile& tile, bool is_b) const;
  struct Choice {
    int stream = -1;  // -1: there is nothing
    int urgency = 0;
    bool unpack = false;
  };
  Choice choose() const;
  bool is_wanted(const Step& step) const;
  std::optional<Task> pack(int stream, const Step& step);
  std::optional<Task> pack_ahead();
  std::size_t first_not_run(const Stream& stream) const;
  int free_sums(const Stream& stream) const;

  const Plan plan_;
  const std::int64_t blocks_;
  std::int64_t next_block_ = 0;
  int packing_ = 0;  // tiles, by host threads, now
  const int buffers_;
  std::vector<Stream> streams_;
  std::vector<Slot> a_, b_;
  std::uint64_t clock_ = 0;
};

}  // namespace npublas
