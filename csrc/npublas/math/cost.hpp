// # Predicting
// How long a product takes on the NPU and on the CPU, in seconds. The plan is chosen by this
// function, and so is where a product runs.
//
//   npu = call + max(fill + device + traffic + drain, host + wait, first + others)
//
//   fill      the first tiles of A and B are packed, by all threads that are awake by then; the
//             first run is handed to its thread and submitted
//   device    the runs of the busiest core: what cutting.hpp says that they compute and stream,
//             while all cores share the memory, and a little between two runs; or, of short runs,
//             what it takes to submit them and to get their sums out of the way
//   drain     the sums of the last runs are handed to the host's threads and unpacked
//   host      all bytes that are packed and unpacked, at the threads' rate
//   wait      of the threads for the first sums, when there is nothing left to pack
//   traffic   what the device loses while the host moves bytes through the same memory
//   first     where B is packed for this product: what the first row block takes, during which all
//             of B is packed; and the others, which need nothing of it
//
//   A is packed once for each row block if it has slots for all tiles of one, else for each panel
//   B is packed once if it has slots for all, else for each row block; nothing if it was before
//   C is read once per K tile, and written once: sums of a tile are added while they are in cache
#pragma once

#include "npublas/base/dtype.hpp"
#include "npublas/math/plan.hpp"
#include "npublas/math/work.hpp"

namespace npublas {

/// The parts of a prediction, in seconds and bytes.
struct Estimate {
  double seconds = 0;
  double fill = 0, device = 0, drain = 0, host = 0, wait = 0, traffic = 0;
  double packed_bytes = 0, unpacked_bytes = 0;  ///< by the host, read and written
  double streamed_bytes = 0;                    ///< by the NPU
};
Estimate estimate(const Plan& plan, bool b_is_packed, const SourceBytes& bytes, const Rates& rates);
/// The same of plans with one `work_of_step`.
Estimate estimate(const Plan& plan, const StepWork& step, bool b_is_packed, const Rates& rates);

/// What no schedule can avoid: every operand read and every packed surface written once, one
/// surface of sums read and the result written once; and the same surfaces streamed by the NPU.
struct Compulsory {
  double host_bytes = 0;
  double streamed_bytes = 0;
};
Compulsory compulsory_bytes(const Plan& plan, bool b_is_packed, const SourceBytes& bytes);

/// Bytes of an element.
int source_bytes(DType dtype);
inline SourceBytes source_bytes(DType a, DType b, DType out) {
  return {.a = source_bytes(a), .b = source_bytes(b), .out = source_bytes(out)};
}

struct Prediction {
  double cpu_seconds;
  double npu_seconds;
};

/// max(2·M·K·N / flops, bytes of A, B, C / bandwidth).
double cpu_seconds(const Shape& shape, DType in, DType out, const Rates& rates);

/// `b_is_packed`: it costs the host nothing.
Prediction predict(const Plan& plan, DType in, DType out, bool b_is_packed, const Rates& rates);

/// True if the product is large enough that the prediction is worth making: below 2·128³ operations
/// the fixed cost of one run alone exceeds the CPU's time.
constexpr bool worth_predicting(const Shape& shape) {
  return double(shape.batch) * double(shape.m) * double(shape.k) * double(shape.n) >=
         128.0 * 128 * 128;
}

}  // namespace npublas
