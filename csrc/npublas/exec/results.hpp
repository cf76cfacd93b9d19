// # Results
// From the sums of a run to the caller's memory: unpacked and added to those of the K tiles before,
// checked, and, with the last K tile, made accurate and finished.
#pragma once

#include "npublas/exec/bench.hpp"
#include "npublas/exec/shop.hpp"

namespace npublas::exec {

/// Makes the sums that the device wrote visible to the CPU, for `unpack`.
void fetch(Job& job, int stream, const Step& step, const Shop& shop);

/// Unpacks the sums of the step, which were fetched; `stream` is its core's number within the
/// bench. Steps of a stream one after the other. Ends the job if the result is none; throws Error.
void unpack(Job& job, int stream, const Step& step, const Shop& shop);

}  // namespace npublas::exec
