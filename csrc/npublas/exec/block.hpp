// # A block of the result
// What a worker does for one block of C, as the plan's loop says:
//
//   for k in steps of depth:
//     take the tile of B:          pack it, or find it in the window
//     for m in steps of rows:
//       pack the tile of A, run, unpack
//   finish:                        check the accuracy, apply bias and activation, round
#pragma once

#include "npublas/exec/job.hpp"

namespace npublas::exec {

/// Computes the block, or leaves the reason in the job. Throws Error if the device fails.
void compute(Job& job, const Block& block, const Bench& bench, Window& window, Work& work);

}  // namespace npublas::exec
