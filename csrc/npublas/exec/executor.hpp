// # Executing a plan
// A worker thread per NPU core. The workers take the blocks of a plan in turn and do for each what
// the plan's loop says: pack, run, unpack. The caller waits, and is told why if it ended early.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "npublas/base/matrix.hpp"
#include "npublas/exec/window.hpp"
#include "npublas/math/plan.hpp"

namespace npublas::exec {

/// Why a product ended. All but `done` leave C undefined, and mean that the CPU must compute it.
enum class Ended {
  done,
  not_finite,  ///< NaN or infinity in an operand: what the NPU makes of them is unknown
  subnormal,   ///< a float16 operand has values that this device flushes to zero
  overflow,    ///< a sum left the range of float32
};

struct Ending {
  Ended ended = Ended::done;
  bool overflowed = false;   ///< a finite sum was rounded to an infinite float16
  bool underflowed = false;  ///< a sum was rounded to a subnormal float16, or to zero
};

/// What was moved and how long it took, summed over the workers.
struct Work {
  std::atomic<std::uint64_t> runs{0}, packed_bytes{0}, unpacked_bytes{0};
  std::atomic<std::uint64_t> pack_nanoseconds{0}, run_nanoseconds{0}, unpack_nanoseconds{0};
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
  Ending run(const Plan& plan, const Product& product, bool flushes_subnormals, int first_core = 0);

  Window& window() { return *window_; }
  const Work& work() const { return work_; }
  int cores() const { return int(workers_.size()); }
  /// True after a run was given up: its worker still hangs in the driver, so nothing can be freed.
  bool stuck() const { return stuck_; }
  /// The core of the last Error that `run` threw.
  int failed_core() const { return failed_core_; }

 private:
  struct Bench;
  struct Job;
  struct Worker;

  Bench borrow(const Plan& plan, int core);
  void serve(Worker& worker, int core);
  void take_blocks(Job& job, int core);
  void multiply(Job& job, const Block& block, const Bench& bench);

  std::shared_ptr<device::Runtime> runtime_;
  std::unique_ptr<Window> window_;
  std::chrono::milliseconds patience_;
  Work work_;
  bool stuck_ = false;
  int failed_core_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace npublas::exec
