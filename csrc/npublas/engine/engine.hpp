// # The engine
// One per process, whatever the door. A door decides, multiplies and counts, in that order:
//
//   decision = decide(settings, in, out, shape)
//   if on_npu:  outcome = engine.multiply(product, settings)   # C is undefined if this isn't `npu`
//   if not:     the door's own CPU path
//   count(...)
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "npublas/engine/counters.hpp"
#include "npublas/engine/product.hpp"
#include "npublas/exec/request.hpp"
#include "npublas/exec/selftest.hpp"
#include "npublas/exec/window.hpp"
#include "npublas/math/cost.hpp"
#include "npublas/math/search.hpp"

namespace npublas {

enum class EngineState { closed, opening, open, unavailable };

/// What a multiplication came to. `reason` is Reason::npu if C holds the result; otherwise C is
/// undefined (but what it was if `beta` isn't 0), the operands are untouched, and the caller
/// computes on the CPU.
struct Outcome {
  Reason reason;
  std::string detail;  ///< the error's own words, empty on success
  bool overflowed;     ///< a float16 result was rounded to infinity: the caller raises FE_OVERFLOW
  bool underflowed;    ///< one was rounded below the normal halves: the caller raises FE_UNDERFLOW
  double seconds;      ///< wall clock
};

/// Decides from the settings, the types, the shape, and what the engine knows. Cheap, takes no lock
/// and opens nothing: while the engine is closed, a product that wants the NPU is decided for it.
/// `weights`: of B, if it is packed.
Decision decide(const Settings& settings, DType a, DType b, DType out, const Shape& shape,
                const Weights* weights = nullptr) noexcept;

/// Why a product is the CPU's, as far as its types, its shape and the settings alone tell; `npu` if
/// they don't. The first thing that `decide` looks at, and for most calls, which are small, the
/// only one: inline, because it is done on every call. `has_method`: the NPU has a way.
constexpr Reason reason_at_once(const Settings& settings, DType a, const Shape& shape,
                                bool has_method) noexcept {
  if (settings.device == Device::cpu) return Reason::device_cpu;
  if (shape.batch == 0 || shape.m == 0 || shape.k == 0 || shape.n == 0) return Reason::empty;
  if (!has_method) return Reason::dtype;
  if (a == DType::float64 && settings.float64 == Float64::cpu) return Reason::float64;
  const bool demanded = settings.device == Device::npu;
  return demanded || worth_predicting(shape) ? Reason::npu : Reason::small;
}

/// `closed` also when an unavailable engine may be tried again.
EngineState engine_state() noexcept;
/// Why the engine is unavailable, in words with the cure; empty otherwise.
std::string unavailable_because();

/// Runs what is asked for on the NPU. Needs an open engine (opening is the door's business, because
/// it may need Python). Never throws; safe from any thread, without the GIL.
Outcome multiply(const Request& request, const Settings& settings) noexcept;

/// Frees what the NPU's window holds of the weights.
void forget(const Weights& weights) noexcept;

struct EngineOptions {
  std::string runtime = "auto";                     ///< "auto", "simulator" or a path
  std::size_t memory_limit = std::size_t(1) << 30;  ///< bytes of the window
  int cores = 3;
  /// The most host threads that one product may have, whatever its settings; 0: any number.
  int threads = 0;
  /// The file whose lock keeps two processes from using the NPU at once; empty for none.
  std::string lock_file;
  std::chrono::milliseconds lock_patience{2000};  ///< then the product runs on the CPU
  std::chrono::milliseconds run_patience{20000};  ///< then the device is given up
};

/// Loads the runtime, opens the device and puts every (type, core) to the test. False if another
/// process holds the NPU; the engine stays closed then. Throws Error, and leaves the engine
/// unavailable with that reason: for good if there is no runtime that can be used, and otherwise
/// until it may be tried again, at once for the first three times, then after 1, 2, 4, ... 64 s.
/// Does nothing if it is open already.
bool open_engine(const EngineOptions& options);
/// Frees everything and closes the device; an unavailable engine may be opened again. Throws
/// Error(argument) while a product is under way.
void close_engine();
/// Says why the engine is unavailable, in better words; `for_good` also if it was not tried.
void make_unavailable(const std::string& because, bool for_good);

/// What the engine is, for reports.
struct EngineStatus {
  EngineState state = EngineState::closed;
  std::string unavailable_because;
  std::string runtime_path, runtime_version, driver_version, fingerprint, chip;
  bool simulated = false;
  int cores = 0;
  EngineOptions options;
  std::array<std::string, kElements> type_problems;  ///< why a type is off; empty if it is on
  bool flushes_subnormals = false;
  std::string quarantined_because;  ///< the last failure, while the device is left alone
  std::string lock_problem;         ///< why no lock keeps other processes away, empty if one does
  std::uint64_t retries = 0;        ///< products that came right at the second attempt
  std::string last_retry;           ///< what had failed at the first
  exec::WindowUsage window;
  std::uint64_t runs = 0, packed_bytes = 0, unpacked_bytes = 0, recomputed = 0;
  double pack_seconds = 0, run_seconds = 0, unpack_seconds = 0;  ///< summed over the workers
};
EngineStatus engine_status();

/// The plan that `multiply` would run with the open engine's limits (or RK3588's, if it is closed);
/// `cores`, if not 0, instead of all. By weights of int4 there are several, of which this is the
/// one that is predicted to be the fastest; `a_limit` as in `Request`.
std::optional<Plan> plan_for(DType a, DType b, DType out, Precision precision, const Shape& shape,
                             const Weights* weights = nullptr, int cores = 0, int a_limit = 127);

/// The plans that were compared for the product, the fastest first by the rates that plans are made
/// for; at most `count`.
std::vector<Candidate> candidates_for(DType a, DType b, DType out, Precision precision,
                                      const Shape& shape, const Weights* weights, int a_limit,
                                      std::size_t count);

}  // namespace npublas
