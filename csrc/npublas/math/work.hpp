// # The work of a step
// What one step of a plan asks of the NPU and of the host: the unit of which the cost model and the
// replay are made.
#pragma once

#include "npublas/math/cutting.hpp"
#include "npublas/math/plan.hpp"

namespace npublas {

/// Of full tiles. Host bytes are those read and written.
struct StepWork {
  int runs = 1;        ///< at most
  RunWork run[3];      ///< of which the first `runs` are made
  double a_bytes = 0;  ///< to pack the tile of A, and of B
  double b_bytes = 0;
  double sum_bytes = 0;  ///< to read the sums of a step
  double out_bytes = 0;  ///< to write a tile of the result, once for all of its K tiles
  // Cache maintenance, which takes a thread but no bandwidth.
  double a_sync_seconds = 0, b_sync_seconds = 0, sum_sync_seconds = 0;
  double streamed_bytes = 0;  ///< by all runs
  double device_seconds = 0;  ///< of all runs one behind the other, with all cores of the plan busy
};
StepWork work_of_step(const Plan& plan, const SourceBytes& bytes, const Rates& rates);

}  // namespace npublas
