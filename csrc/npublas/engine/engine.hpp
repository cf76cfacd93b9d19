// # The engine
// One per process, whatever the door. A door decides, multiplies and counts, in that order:
//
//   decision = decide(settings, in, out, shape)
//   if on_npu:  outcome = engine.multiply(product, settings)   # C is undefined if this isn't `npu`
//   if not:     the door's own CPU path
//   count(...)
#pragma once

#include <memory>
#include <string>

#include "npublas/engine/product.hpp"

namespace npublas {

enum class EngineState { closed, opening, open, unavailable };

/// What a multiplication came to. `reason` is Reason::npu if C holds the result; otherwise C is
/// undefined, the operands are untouched, and the caller computes on the CPU.
struct Outcome {
  Reason reason;
  std::string detail;  ///< the error's own words, empty on success
  bool overflowed;     ///< a float16 result was rounded to infinity: the caller raises FE_OVERFLOW
  double seconds;      ///< wall clock
};

/// Decides from the settings, the types, the shape, and what the engine knows. Cheap, takes no lock
/// and opens nothing: while the engine is closed, a product that wants the NPU is decided for it.
Decision decide(const Settings& settings, DType in, DType out, const Shape& shape) noexcept;

/// True if `decide` may say `on_npu` for this shape at all under device="auto": a few compares, so
/// that a door can send small products to the CPU before it reads any setting.
bool may_gain(const Shape& shape) noexcept;

EngineState engine_state() noexcept;
/// Why the engine is unavailable, in words with the cure; empty otherwise.
std::string unavailable_because();

/// Runs the product on the NPU. Needs an open engine (opening is the door's business, because it
/// may need Python). Never throws; safe from any thread, without the GIL.
Outcome multiply(const Product& product, const Settings& settings) noexcept;

/// Counts a product for `counters()`. A few relaxed atomic additions.
void count(DType in, const Shape& shape, Reason reason, bool fallback, double seconds) noexcept;

}  // namespace npublas
