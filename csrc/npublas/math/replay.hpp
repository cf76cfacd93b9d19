// # Replaying a plan
// What a plan takes on a machine of given rates: the schedule that drives the executor, driven by
// simulated time instead. Nothing is computed, nothing depends on this machine, and the same plan
// always takes the same time. Low parts of float32 are those that the plan expects.
//
//   host threads   each takes the most urgent task: so many bytes at a thread's rate, all threads
//                  together at theirs, and the cache maintenance
//   all threads    those of the cores, too, sleep when they find nothing to do, and are woken as
//                  the executor wakes them, which takes each of them a while
//   a core         two contexts: a run starts when it was submitted and the run before it is over
//   memory         one budget for all: what runs and tasks want is shared evenly, so that nobody
//                  gets more than he wants; the NPU's share has a limit of its own
#pragma once

#include <cstdint>
#include <vector>

#include "npublas/math/plan.hpp"

namespace npublas {

struct ReplayOptions {
  bool b_is_packed = false;
  bool b_is_resident = true;  ///< packed tiles are in the window, else they are copied there
  SourceBytes bytes;
};

struct Replayed {
  double seconds = 0;        ///< of the call
  std::vector<double> busy;  ///< of each core: seconds in which it ran
  double host_seconds = 0;   ///< of all threads: seconds in which they worked
  double packed_bytes = 0;   ///< read and written by the host
  double unpacked_bytes = 0;
  double streamed_bytes = 0;  ///< by the NPU
  std::int64_t runs = 0;
  std::int64_t packed_a = 0, packed_b = 0;  ///< tiles
};

Replayed replay(const Plan& plan, const ReplayOptions& options, const Rates& rates);

}  // namespace npublas
