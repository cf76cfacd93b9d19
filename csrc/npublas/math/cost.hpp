// # Predicting
// How long a product takes on the NPU and on the CPU, in seconds, from published measurements of
// RK3588 boards. Nothing here was measured by npublas; the constants are the pessimistic end of
// what is published, because the first rule is never to be slower than NumPy.
#pragma once

#include "npublas/base/dtype.hpp"
#include "npublas/math/plan.hpp"

namespace npublas {

struct Prediction {
  double cpu_seconds;
  double npu_seconds;
};

/// The model:
///   npu = t_system + max(device, host) + min(device, host)            packing and running in turn
///   device = runs/cores · t_run + slack · max(MACs / (cores · rate · eta), bytes / bandwidth)
///   bytes  = per run, the streamed operand once per on-chip tile, the resident one, and C
///   host   = packed and unpacked bytes / (cores · packing rate of a thread)
///   cpu    = max(2·M·K·N / flops, bytes of A, B, C / bandwidth)
/// `b_is_packed`: it costs the host nothing.
Prediction predict(const Plan& plan, DType in, DType out, bool b_is_packed = false);

/// True if the product is large enough that the prediction is worth making: below 2·128³ operations
/// the fixed cost of one run alone exceeds the CPU's time.
constexpr bool worth_predicting(const Shape& shape) {
  return double(shape.batch) * double(shape.m) * double(shape.k) * double(shape.n) >=
         128.0 * 128 * 128;
}

}  // namespace npublas
