// # Before trust
// Runtimes exist that return zeros, or nonsense, with success. Before a type is used on a core, the
// core must give the known answer to products on both sides of the height at which the runtime
// starts to cut a product into several tasks, and to one of a single row.
#pragma once

#include <memory>
#include <string>

#include "npublas/device/context.hpp"
#include "npublas/math/layout.hpp"

namespace npublas::exec {

struct Verdict {
  bool right = false;
  bool wrong = false;              ///< an answer was wrong; otherwise a call failed
  bool row_major = false;          ///< also with row-major A and C; never int4
  bool flushes_subnormals = true;  ///< float16 only: subnormal operands count as zero
  std::string problem;             ///< what went wrong, empty if right
};

/// Asks `core` for products of known answer. Never throws: a failed call is a problem.
Verdict self_test(const std::shared_ptr<device::Runtime>& runtime, Element element, int core);

}  // namespace npublas::exec
