// # A job
// One product while it is being computed: what was asked, its schedule, what the threads share, and
// how it ended. Shared with the threads, so that it outlives a caller who has given up on one of
// them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/exec/request.hpp"
#include "npublas/math/schedule.hpp"

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

/// What was moved and how long it took, summed over all threads.
struct Work {
  std::atomic<std::uint64_t> runs{0}, packed_bytes{0}, unpacked_bytes{0};
  std::atomic<std::uint64_t> recomputed{0};  ///< elements that the CPU computed for accuracy's sake
  std::atomic<std::uint64_t> pack_nanoseconds{0}, run_nanoseconds{0}, unpack_nanoseconds{0};
};

/// What a thread moves in the time that it takes to wake another.
inline constexpr std::size_t kNotWorthWaking = 64 << 10;

struct Bench;

struct Job {
  Job(const Plan& p, const Request& r, bool flushes, int host_threads, std::uint64_t name);
  ~Job();

  const Plan plan;
  Request request;  // constant while anybody works on it
  const bool flushes_subnormals;
  const int threads;            // that may pack and unpack at a time
  const std::uint64_t product;  // in traces

  // Under the executor's mutex:
  Schedule schedule;
  int in_flight = 0;             // tasks that somebody does now
  int host_tasks = 0;            // of these, not runs
  bool caller_waits = false;     // and would rather work
  std::condition_variable wake;  // of the caller

  std::unique_ptr<Bench> bench;

  std::atomic<bool> stop{false};
  std::atomic<bool> overflowed{false}, underflowed{false};
  std::atomic<std::int64_t> doubtful{0};   // elements whose accuracy wasn't certain
  std::atomic<std::uint64_t> progress{0};  // counts what was finished, for the caller's patience

  // The caller's memory may be touched while `access` is held shared and `abandoned` is false.
  std::shared_mutex access;
  bool abandoned = false;

  std::mutex mutex;  // of what follows
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
