// # Executing plans
// A few threads per NPU core, because a run blocks: one waits for its run while another's is queued
// behind it in the driver, and a third fetches the sums of the run before, for which the CPU's
// cache has to be cleared of them. Packing and unpacking is done by the callers themselves and by a
// few threads that help them. All of them do what the jobs' schedules give out, under one mutex
// that is held for moments; who finds nothing sleeps, and is woken when the mutex is free, because
// whoever wakes to find it taken sleeps once more. Several callers share the cores, a task each in
// turn.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "npublas/exec/bench.hpp"
#include "npublas/exec/shop.hpp"

namespace npublas::exec {

/// Contexts that the window has beside those of plans: the one that all memory comes from, and
/// those to sync through.
inline constexpr int kOwnContexts = 1 + Syncs::kAtOnce;

struct Ending {
  Ended ended = Ended::done;
  bool overflowed = false;   ///< a finite sum was rounded to infinity
  bool underflowed = false;  ///< a sum was rounded to a subnormal, or to zero
};

class Executor {
 public:
  /// `patience`: a job that makes no progress for so long is given up. The driver itself gives up
  /// after 6 s, up to three times.
  Executor(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits, int cores,
           std::chrono::milliseconds patience);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Runs the plan on cores [first_core, first_core + plan.cores), modulo their number, with at
  /// most `threads` that pack and unpack, the caller among them. Throws the first Error of any
  /// thread, after all have stopped touching the caller's memory. From any thread; waits where the
  /// jobs that are under way leave no room in the window.
  Ending run(const Plan& plan, const Request& request, bool flushes_subnormals, int threads,
             int first_core = 0);

  Window& window() { return *window_; }
  const Work& work() const { return work_; }
  int cores() const { return int(cores_.size()); }
  /// True after a job was given up: a thread still hangs in the driver, so nothing can be freed.
  bool stuck() const { return stuck_; }
  /// The core of the last Error that `run` threw.
  int failed_core() const { return failed_core_; }

 private:
  /// The threads of one NPU core.
  struct Core {
    std::condition_variable woken;
    int running = 0;  // runs that are under way, to count the time in which there are some
    std::chrono::steady_clock::time_point since;
    std::vector<std::thread> threads;
  };
  using Lock = std::unique_lock<std::mutex>;
  /// Who has something to do now, and is told so as soon as the mutex is free.
  struct Wakes {
    Wakes() { callers.reserve(4); }  // more never come together
    std::uint32_t cores = 0;         // bits: a thread of each
    int helpers = 0;
    std::vector<std::shared_ptr<Job>> callers;
    bool any() const { return cores || helpers || !callers.empty(); }
  };
  /// Of the window.
  struct Room {
    std::size_t bytes = 0;
    int files = 0, contexts = 0;
    Room operator+(const Room& other) const {
      return {bytes + other.bytes, files + other.files, contexts + other.contexts};
    }
    Room operator-(const Room& other) const {
      return {bytes - other.bytes, files - other.files, contexts - other.contexts};
    }
  };
  static Room room_for(const Plan& plan);
  bool fits(const Room& room) const;

  void admit(Lock& lock, const std::shared_ptr<Job>& job, int first_core);
  void wait_for(Lock& lock, const std::shared_ptr<Job>& job);
  void leave(const std::shared_ptr<Job>& job);
  void help(int number);
  void serve(int core);
  bool work_once(Lock& lock, Wakes& wakes, Job* only);
  bool run_once(Lock& lock, Wakes& wakes, int core);
  void do_host_task(Job& job, const Task& task);
  void do_run(Job& job, const Task& task, const Lane& lane);
  void do_fetch(Job& job, const Task& task);
  void wake_runners(Wakes& wakes, const Job& job);
  void wake_host(Wakes& wakes, const std::shared_ptr<Job>& job);
  void ended(Wakes& wakes, const std::shared_ptr<Job>& job);
  void send(Wakes& wakes);
  bool send_unlocked(Lock& lock, Wakes& wakes);
  void hire(int threads);
  void stop();

  std::shared_ptr<device::Runtime> runtime_;
  std::unique_ptr<Window> window_;
  std::chrono::milliseconds patience_;
  Work work_;
  Syncs syncs_;
  Shop shop_;
  std::atomic<bool> stuck_{false};
  std::atomic<int> failed_core_{0};

  std::mutex mutex_;
  bool quit_ = false;
  std::deque<std::shared_ptr<Job>> jobs_;        // in turn: who was served goes to the back
  Room reserved_;                                // by the jobs' plans
  std::uint64_t next_ticket_ = 0, serving_ = 0;  // jobs are admitted in the order of their calls
  std::condition_variable room_;
  std::condition_variable helpers_woken_;
  int idle_helpers_ = 0;
  std::vector<std::thread> helpers_;
  std::vector<std::unique_ptr<Core>> cores_;
};

}  // namespace npublas::exec
