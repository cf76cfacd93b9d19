// # A job
// One product while it is being computed: what was asked, what the workers share, and how it ended.
// Shared with the workers, so that it outlives a caller who has given up on one of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/exec/request.hpp"
#include "npublas/exec/window.hpp"
#include "npublas/math/plan.hpp"

namespace npublas::exec {

/// Why a product ended. All but `done` leave C undefined, and mean that the CPU must compute it.
enum class Ended {
  done,
  not_finite,    ///< NaN or infinity in an operand: what the NPU makes of them is unknown
  subnormal,     ///< a float16 operand has values that this device flushes to zero
  precision,     ///< magnitudes too far apart for the accuracy of float32
  needs_source,  ///< as before, but the source of the packed B would make it right
  beyond,        ///< an int8 A has larger numbers than was promised
  overflow,      ///< a sum left the range of float32
};

/// What was moved and how long it took, summed over the workers.
struct Work {
  std::atomic<std::uint64_t> runs{0}, packed_bytes{0}, unpacked_bytes{0};
  std::atomic<std::uint64_t> recomputed{0};  ///< elements that the CPU computed for accuracy's sake
  std::atomic<std::uint64_t> pack_nanoseconds{0}, run_nanoseconds{0}, unpack_nanoseconds{0};
};

/// What a worker needs for one tile: the same for every block of a plan, so it is borrowed once,
/// and for all workers before any of them starts, so that a repeated product finds everything
/// there.
struct Bench {
  Window::Loan<device::Context> context;
  Window::Loan<device::Memory> a, c;
  std::optional<Window::Loan<device::Memory>> b;  ///< not for weights, which bring their own
  // For the cross terms of the float32 method: see block.cpp.
  std::optional<Window::Loan<device::Context>> joined;
  std::optional<Window::Loan<device::Memory>> a_low, b_cross, c_cross;
};

struct Job {
  Job(const Plan& p, const Request& r, bool flushes)
      : plan(p), request(r), flushes_subnormals(flushes) {}

  const Plan plan;
  Request request;  // constant while a worker works
  const bool flushes_subnormals;
  std::vector<std::pair<int, Bench>> benches;  // by core

  std::atomic<std::int64_t> next_block{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> overflowed{false}, underflowed{false};
  std::atomic<std::int64_t> doubtful{0};   // elements whose accuracy wasn't certain
  std::atomic<std::uint64_t> progress{0};  // counts finished runs, for the caller's patience

  // The caller's memory may be touched while `access` is held shared and `abandoned` is false.
  std::shared_mutex access;
  bool abandoned = false;

  std::mutex mutex;
  std::condition_variable finished;
  int working = 0;
  Ended ended = Ended::done;
  // The first failure, as plain values: the caller and the worker must not share an exception.
  bool failed = false;
  int failed_core = 0;
  ErrorKind error_kind = ErrorKind::device;
  std::string error;

  void end(Ended why) {
    const std::lock_guard lock(mutex);
    if (ended == Ended::done) ended = why;
    stop = true;
  }
  void fail(int core, ErrorKind kind, const char* what) {
    const std::lock_guard lock(mutex);
    stop = true;
    if (std::exchange(failed, true)) return;
    failed_core = core;
    error_kind = kind;
    error = what;
  }
};

/// The right to touch the caller's memory for the length of a scope; false once it was withdrawn.
class Access {
 public:
  explicit Access(Job& job) : lock_(job.access), granted_(!job.abandoned) {}
  explicit operator bool() const { return granted_; }

 private:
  std::shared_lock<std::shared_mutex> lock_;
  bool granted_;
};

}  // namespace npublas::exec
