#include "npublas/math/replay.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>

#include "npublas/math/schedule.hpp"
#include "npublas/math/work.hpp"

namespace npublas {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
// Amounts of a fluid that are as good as nothing: below a byte.
constexpr double kNothing = 1e-3;

/// Gives everybody what he wants, or the same share of `total` to all who want more than that.
void share(std::span<double*> wants, double total) {
  double wanted = 0;
  for (const double* one : wants) wanted += *one;
  if (wanted <= total) return;
  for (double most = total / double(wants.size());;) {  // rises to the share
    double left = total;
    int more = 0;
    for (const double* one : wants) {
      if (*one > most)
        ++more;
      else
        left -= *one;
    }
    const double share = left / std::max(more, 1);
    if (more > 0 && share > most * (1 + 1e-12)) {
      most = share;
      continue;
    }
    for (double* one : wants) *one = std::min(*one, most);
    return;
  }
}

/// A thread that finds no work sleeps, and it takes a while to wake it.
class Sleeper {
 public:
  bool is_asleep() const { return state_ == State::asleep; }
  bool is_waking() const { return state_ == State::waking; }
  bool is_awake() const { return state_ == State::awake; }
  double left() const { return left_; }  ///< seconds until it is awake

  void sleep() { state_ = State::asleep; }
  void wake(double seconds) {
    left_ = seconds;
    state_ = seconds > 0 ? State::waking : State::awake;
  }
  /// True if it has just woken up.
  bool pass(double seconds) {
    if (!is_waking()) return false;
    left_ -= seconds;
    if (left_ > seconds * 1e-12) return false;
    state_ = State::awake;
    return true;
  }

 private:
  enum class State : std::uint8_t { asleep, waking, awake };
  State state_ = State::asleep;
  double left_ = 0;
};

/// A host thread: first what takes time alone, then what takes bandwidth.
struct Thread {
  Sleeper sleeper;
  std::optional<Task> task;
  double wait = 0;   // seconds
  double bytes = 0;  // left
  double rate = 0;   // at present
};

/// One of the contexts of a core, and its thread: a step, the runs of which it makes one after the
/// other.
struct Context {
  Sleeper sleeper;
  std::optional<Task> task;
  int run = 0;          // of the step
  double submit = 0;    // seconds until the core could start it
  bool queued = false;  // submitted, or about to be, and not over
};

struct Core {
  Context contexts[kRunsInFlight];
  int queue[kRunsInFlight];  // contexts, in the order in which they submitted
  int queued = 0;
  bool runs = false;  // the first in the queue
  double gap = 0;     // seconds until the next may start
  double wait = 0;    // seconds of the run in which it doesn't stream
  double left = 0;    // of its share of the memory, in bytes
  double wants = 0;   // bytes a second
  double rate = 0;
};

/// The sums of a run that is over, on their way to the CPU. Their context is free meanwhile.
struct Fetching {
  Task task;
  double left;  // seconds
};

class Replay {
 public:
  Replay(const Plan& plan, const ReplayOptions& options, const Rates& rates)
      : plan_(plan),
        options_(options),
        rates_(rates),
        work_(work_of_step(plan, options.bytes, rates)),
        schedule_(plan),
        threads_(std::size_t(std::max(rates.threads, 1))),
        cores_(std::size_t(plan.cores)) {
    result_.busy.resize(cores_.size());
    threads_.front().sleeper.wake(0);  // the caller
  }

  Replayed run() {
    while (!schedule_.finished()) {
      if (news_) give_out();
      set_rates();
      const double step = next_event();
      if (step == kNever) throw std::logic_error("the schedule came to a halt");
      advance(step);
    }
    if (!threads_.front().sleeper.is_awake()) now_ += rates_.handoff_seconds;  // the caller
    result_.seconds = now_ + rates_.call_seconds;
    return std::move(result_);
  }

 private:
  /// Who is awake takes what there is; who finds nothing sleeps. As in the executor, who takes a
  /// task has one more thread woken if there is more to do, and so has the end of each run.
  void give_out() {
    news_ = false;
    do {
      while (take_all()) continue;
    } while (sleep_and_wake());
  }

  bool take_all() {
    bool any = false;
    for (std::size_t i = 0; i < cores_.size(); ++i)
      for (int j = 0; j < kRunsInFlight; ++j) {
        Context& context = cores_[i].contexts[j];
        if (context.task || !context.sleeper.is_awake()) continue;
        context.task = schedule_.take_run(int(i));
        if (!context.task) continue;
        context.run = 0;
        submit(cores_[i], j);
        any = true;
      }
    for (Thread& thread : threads_) {
      if (thread.task || !thread.sleeper.is_awake()) continue;
      const auto task = schedule_.take_host_task();
      if (!task) continue;
      begin(thread, *task);
      ++calls_;
      any = true;
    }
    return any;
  }

  /// True if somebody is awake at once, because waking takes no time.
  bool sleep_and_wake() {
    bool any = false;
    for (std::size_t i = 0; i < cores_.size(); ++i) {
      Context(&contexts)[kRunsInFlight] = cores_[i].contexts;
      send_to_sleep(contexts);
      const bool called = std::any_of(std::begin(contexts), std::end(contexts),
                                      [](const Context& one) { return one.sleeper.is_waking(); });
      if (!called && schedule_.can_run(int(i))) any |= wake_one(contexts);
    }
    send_to_sleep(threads_);
    if (schedule_.has_host_task())
      for (; calls_ > 0; --calls_) any |= wake_one(threads_);
    calls_ = 0;
    return any;
  }

  template <typename All>
  static void send_to_sleep(All& all) {
    for (auto& one : all)
      if (!one.task && one.sleeper.is_awake()) one.sleeper.sleep();
  }

  template <typename All>
  bool wake_one(All& all) {
    const auto sleeper = std::find_if(std::begin(all), std::end(all),
                                      [](const auto& one) { return one.sleeper.is_asleep(); });
    if (sleeper == std::end(all)) return false;
    sleeper->sleeper.wake(rates_.handoff_seconds);
    return sleeper->sleeper.is_awake();
  }

  void submit(Core& core, int index) {
    Context& context = core.contexts[index];
    context.submit = rates_.submit_seconds + 3 * rates_.bind_seconds;
    context.queued = true;
    core.queue[core.queued++] = index;
    ++result_.runs;
  }

  void begin(Thread& thread, const Task& task) {
    const Step& step = task.step;
    const double rows = double(step.rows) / double(plan_.tile_rows);
    const double columns = double(step.columns) / double(plan_.tile_columns);
    const double depth = double(step.depth) / double(plan_.tile_depth);
    thread.task = task;
    thread.bytes = thread.wait = 0;
    switch (task.kind) {
      case Task::Kind::pack_a:
        thread.bytes = work_.a_bytes * rows * depth;
        thread.wait = work_.a_sync_seconds;
        result_.packed_bytes += thread.bytes;
        ++result_.packed_a;
        break;
      case Task::Kind::pack_b:
        thread.bytes = work_.b_bytes * columns * depth;
        thread.wait = work_.b_sync_seconds;
        if (options_.b_is_packed) {
          thread.bytes = options_.b_is_resident ? 0 : 2 * double(plan_.b_slot_bytes());
          if (options_.b_is_resident) thread.wait = 0;
        }
        result_.packed_bytes += thread.bytes;
        if (thread.bytes > 0) ++result_.packed_b;
        break;
      case Task::Kind::run:
        break;
      case Task::Kind::unpack:
        thread.bytes = work_.sum_bytes * rows * columns;
        if (step.last_k) thread.bytes += work_.out_bytes * rows * columns;
        result_.unpacked_bytes += thread.bytes;
        break;
    }
  }

  const RunWork& run_of(const Core& core) const {
    return work_.run[core.contexts[core.queue[0]].run];
  }

  /// Starts what can start, and shares the memory among all that use it now.
  void set_rates() {
    for (Core& core : cores_) {
      if (core.runs || core.queued == 0 || core.gap > 0) continue;
      if (core.contexts[core.queue[0]].submit > 0) continue;
      const RunWork& work = run_of(core);
      core.runs = true;
      core.wait = work.gaps;
      core.left = work.share;
      core.wants = work.share / work.alone;
      result_.streamed_bytes += work.bytes;
    }
    wants_.clear();
    for (Core& core : cores_) {
      if (!core.runs || core.wait > 0) continue;
      core.rate = core.wants;
      wants_.push_back(&core.rate);
    }
    const std::size_t of_npu = wants_.size();
    share(wants_, rates_.memory_bytes_per_second);
    for (Thread& thread : threads_) {
      if (!thread.task || thread.wait > 0) continue;
      thread.rate = rates_.pack_bytes_per_second;
      wants_.push_back(&thread.rate);
    }
    share(std::span(wants_).subspan(of_npu), rates_.pack_bytes_per_second_all);
    share(wants_, rates_.dram_bytes_per_second);
  }

  double next_event() const {
    double next = kNever;
    for (const Core& core : cores_) {
      if (core.gap > 0) next = std::min(next, core.gap);
      for (const Context& context : core.contexts) {
        if (context.queued && context.submit > 0) next = std::min(next, context.submit);
        if (context.sleeper.is_waking()) next = std::min(next, context.sleeper.left());
      }
      if (core.runs) next = std::min(next, core.wait > 0 ? core.wait : core.left / core.rate);
    }
    for (const Fetching& one : fetching_) next = std::min(next, one.left);
    for (const Thread& thread : threads_) {
      if (thread.sleeper.is_waking()) next = std::min(next, thread.sleeper.left());
      if (!thread.task) continue;
      next = std::min(next, thread.wait > 0 ? thread.wait : thread.bytes / thread.rate);
    }
    return next;
  }

  void advance(double seconds) {
    now_ += seconds;
    const auto pass = [seconds](double& left) {
      left = left > seconds * (1 + 1e-12) ? left - seconds : 0;
    };
    for (Fetching& one : fetching_) pass(one.left);
    std::erase_if(fetching_, [&](const Fetching& one) {
      if (one.left > 0) return false;
      ++calls_;
      done(one.task);
      return true;
    });
    for (std::size_t i = 0; i < cores_.size(); ++i) {
      Core& core = cores_[i];
      for (Context& context : core.contexts) {
        news_ |= context.sleeper.pass(seconds);
        if (context.queued) pass(context.submit);
      }
      pass(core.gap);
      if (!core.runs) continue;
      result_.busy[i] += seconds;
      if (core.wait > 0) {
        pass(core.wait);
        continue;
      }
      core.left -= core.rate * seconds;
      if (core.left <= kNothing) end_run(core);
    }
    for (Thread& thread : threads_) {
      news_ |= thread.sleeper.pass(seconds);
      if (!thread.task) continue;
      result_.host_seconds += seconds;
      if (thread.wait > 0) {
        pass(thread.wait);
        if (thread.wait > 0 || thread.bytes > 0) continue;
      } else {
        thread.bytes -= thread.rate * seconds;
      }
      if (thread.bytes > kNothing) continue;
      const Task task = *thread.task;
      thread.task.reset();
      done(task);
    }
  }

  void end_run(Core& core) {
    core.runs = false;
    core.gap = rates_.queued_seconds;
    const int index = core.queue[0];
    std::copy(core.queue + 1, core.queue + core.queued, core.queue);
    --core.queued;
    Context& context = core.contexts[index];
    context.queued = false;
    if (++context.run < work_.runs) {
      submit(core, index);
      return;
    }
    fetching_.push_back({*context.task, work_.sum_sync_seconds});
    context.task.reset();
    news_ = true;
  }

  void done(const Task& task) {
    schedule_.done(task);
    news_ = true;
  }

  const Plan plan_;
  const ReplayOptions options_;
  const Rates rates_;
  StepWork work_;
  Schedule schedule_;
  std::vector<Thread> threads_;
  std::vector<Core> cores_;
  std::vector<Fetching> fetching_;
  std::vector<double*> wants_;  // bytes a second, of whoever uses the memory now
  bool news_ = true;  // something was done, or somebody woke up: there may be something to give out
  int calls_ = 0;     // of host threads, since they were woken last
  double now_ = 0;
  Replayed result_;
};

}  // namespace

Replayed replay(const Plan& plan, const ReplayOptions& options, const Rates& rates) {
  return Replay(plan, options, rates).run();
}

}  // namespace npublas
