// # Executing a plan
// A worker thread per NPU core. The workers take the blocks of a plan in turn and do for each what
// the plan's loop says: pack, run, unpack. The caller waits, and is told why if it ended early.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "npublas/exec/job.hpp"

namespace npublas::exec {

struct Ending {
  Ended ended = Ended::done;
  bool overflowed = false;   ///< a finite sum was rounded to infinity
  bool underflowed = false;  ///< a sum was rounded to a subnormal, or to zero
};

class Executor {
 public:
  /// `patience`: a run that makes no progress for so long is given up. The driver itself gives up
  /// after 6 s, up to three times.
  Executor(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits, int cores,
           std::chrono::milliseconds patience);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Runs the plan on cores [first_core, first_core + plan.cores), modulo their number. Throws the
  /// first Error of a worker, after all have stopped touching the caller's memory. One at a time.
  Ending run(const Plan& plan, const Request& request, bool flushes_subnormals, int first_core = 0);

  Window& window() { return *window_; }
  const Work& work() const { return work_; }
  int cores() const { return int(workers_.size()); }
  /// True after a run was given up: its worker still hangs in the driver, so nothing can be freed.
  bool stuck() const { return stuck_; }
  /// The core of the last Error that `run` threw.
  int failed_core() const { return failed_core_; }

 private:
  struct Worker;

  Bench borrow(const Plan& plan, bool weights, int core);
  void serve(Worker& worker, int core);
  void take_blocks(Job& job, int core);

  std::shared_ptr<device::Runtime> runtime_;
  std::unique_ptr<Window> window_;
  std::chrono::milliseconds patience_;
  Work work_;
  bool stuck_ = false;
  int failed_core_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace npublas::exec
