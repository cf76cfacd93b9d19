#include "npublas/exec/executor.hpp"

#include <algorithm>
#include <bit>
#include <string>
#include <system_error>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/exec/operands.hpp"
#include "npublas/exec/results.hpp"
#include "npublas/exec/trace.hpp"

namespace npublas::exec {

Executor::Executor(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits, int cores,
                   std::chrono::milliseconds patience)
    : runtime_(std::move(runtime)),
      window_(std::make_unique<Window>(runtime_, limits)),
      patience_(patience),
      syncs_(runtime_, *window_),
      shop_{*window_, work_, syncs_} {
  for (int core = 0; core < cores; ++core) cores_.push_back(std::make_unique<Core>());
  try {
    for (int core = 0; core < cores; ++core)  // now that none is added any more
      for (int i = 0; i < kRunsInFlight + 1; ++i)
        cores_[std::size_t(core)]->threads.emplace_back([this, core] { serve(core); });
  } catch (...) {  // the system has no more threads
    stop();
    throw;
  }
}

Executor::~Executor() { stop(); }

void Executor::stop() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  helpers_woken_.notify_all();
  for (const auto& core : cores_) core->woken.notify_all();
  for (std::thread& helper : helpers_) helper.join();
  for (const auto& core : cores_)
    for (std::thread& thread : core->threads) thread.join();
}

Ending Executor::run(const Plan& plan, const Request& request, bool flushes_subnormals, int threads,
                     int first_core) {
  const auto job =
      std::make_shared<Job>(plan, request, flushes_subnormals, threads, trace::this_product());
  {
    Lock lock(mutex_);
    admit(lock, job, first_core);
    try {
      hire(threads - 1);
      wait_for(lock, job);
    } catch (...) {
      if (stuck_) throw;  // a thread has the job still, and all that belongs to it
      job->stop = true;
      job->wake.wait(lock, [&] { return job->in_flight == 0; });
      lock.unlock();
      leave(job);
      throw;
    }
  }
  leave(job);
  if (job->failed) {
    failed_core_ = job->failed_core;
    throw Error(job->error_kind, job->error);
  }
  return {.ended = job->ended, .overflowed = job->overflowed, .underflowed = job->underflowed};
}

Executor::Room Executor::room_for(const Plan& plan) {
  const bool stacked = plan.method == Method::float32 && plan.layout == Layout::normal;
  return {plan.window_bytes(), plan.files(), plan.cores * runs_at_once(plan) * (stacked ? 2 : 1)};
}

/// Beside what the window has for itself: where its memory comes from, and contexts to sync
/// through.
bool Executor::fits(const Room& room) const {
  const WindowLimits& limits = window_->limits();
  return room.bytes + kOwnContexts * kContextBytes <= limits.bytes &&
         room.files + 2 * kOwnContexts <= limits.files &&
         room.contexts + kOwnContexts <= limits.contexts;
}

// A plan may use the whole window. So it starts only where it fits beside those that are under way,
// in the order of the calls, so that a large one isn't passed by small ones for ever.
void Executor::admit(Lock& lock, const std::shared_ptr<Job>& job, int first_core) {
  const std::uint64_t ticket = next_ticket_++;
  const Room need = room_for(job->plan);
  room_.wait(lock, [&] {
    return stuck_ || (ticket == serving_ && (reserved_.contexts == 0 || fits(reserved_ + need)));
  });
  if (stuck_) {
    ++serving_;
    throw Error(ErrorKind::timeout,
                "the NPU hangs in another product, and is left alone for the "
                "rest of this process");
  }
  reserved_ = reserved_ + need;
  jobs_.push_back(job);
  lock.unlock();
  std::unique_ptr<Bench> bench;
  int core = first_core;
  try {
    const trace::Span span(trace::Act::plan, trace::here, job->product);
    bench = std::make_unique<Bench>(job->plan, job->request.weights != nullptr, *window_,
                                    first_core, cores(), &core);
    const std::int64_t at_once = job->plan.cores + job->threads;
    syncs_.prepare(*job, int(std::min(at_once, job->plan.steps())));
  } catch (...) {
    failed_core_ = core;
    lock.lock();
    ++serving_;
    lock.unlock();
    leave(job);
    throw;
  }
  lock.lock();
  job->bench = std::move(bench);  // from here on it is worked on
  ++serving_;
  room_.notify_all();
}

/// The caller works on its own job until there is nothing left to do.
void Executor::wait_for(Lock& lock, const std::shared_ptr<Job>& job) {
  const auto over = [&] { return (job->stop || job->schedule.finished()) && job->in_flight == 0; };
  std::uint64_t seen = 0;
  Wakes wakes;
  while (!over()) {
    if (work_once(lock, wakes, job.get()) || send_unlocked(lock, wakes)) continue;
    const trace::Span waiting(trace::Act::wait, trace::here, job->product);
    seen = job->progress;
    job->caller_waits = true;
    const bool woken = job->wake.wait_for(lock, patience_) == std::cv_status::no_timeout;
    job->caller_waits = false;
    if (woken || job->progress != seen || over()) continue;
    // Nothing came back for too long. Let everybody who still moves leave, then lock out the rest.
    job->stop = true;
    stuck_ = true;
    room_.notify_all();
    lock.unlock();
    {
      const std::unique_lock exclusive(job->access);
      job->abandoned = true;
    }
    throw Error(ErrorKind::timeout,
                "rknn_matmul_run did not come back within " + std::to_string(patience_.count()) +
                    " ms. The NPU is left alone for the rest of this process; if it hangs for "
                    "others too, reboot, and check that the driver is 0.9.8 or newer.");
  }
}

/// Gives back what the job had. Now, and here: a thread may hold on to the job for a moment longer,
/// and must not be the one who frees the weights, which may belong to Python.
void Executor::leave(const std::shared_ptr<Job>& job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));
  }
  job->bench.reset();
  if (job->request.weights && job->request.weights->is_closed())
    window_->forget(job->request.weights->id());
  job->request.weights.reset();
  const std::lock_guard lock(mutex_);
  reserved_ = reserved_ - room_for(job->plan);
  room_.notify_all();
}

void Executor::hire(int threads) {
  while (int(helpers_.size()) < threads) {
    const int number = int(helpers_.size());
    try {
      helpers_.emplace_back([this, number] { help(number); });
    } catch (const std::system_error&) {
      return;  // fewer will do
    }
  }
}

void Executor::help(int number) {
  trace::name_this_thread("npublas-host-" + std::to_string(number));
  Wakes wakes;
  Lock lock(mutex_);
  while (!quit_) {
    if (work_once(lock, wakes, nullptr) || send_unlocked(lock, wakes)) continue;
    ++idle_helpers_;
    helpers_woken_.wait(lock);
    --idle_helpers_;
  }
}

void Executor::serve(int core) {
  trace::name_this_thread("npublas-core-" + std::to_string(core));
  Wakes wakes;
  Lock lock(mutex_);
  while (!quit_) {
    if (run_once(lock, wakes, core) || send_unlocked(lock, wakes)) continue;
    cores_[std::size_t(core)]->woken.wait(lock);
  }
}

/// Packs or unpacks something, of `only` if it isn't null. False if there is nothing to do.
bool Executor::work_once(Lock& lock, Wakes& wakes, Job* only) {
  for (std::size_t i = 0; i < jobs_.size(); ++i) {
    const std::shared_ptr<Job> job = jobs_[i];
    if ((only && job.get() != only) || job->stop || !job->bench) continue;
    if (job->host_tasks >= job->threads) continue;
    const auto task = job->schedule.take_host_task();
    if (!task) continue;
    if (!only) std::rotate(jobs_.begin(), jobs_.begin() + std::ptrdiff_t(i) + 1, jobs_.end());
    ++job->in_flight;
    if (++job->host_tasks < job->threads && job->schedule.has_host_task()) wake_host(wakes, job);
    lock.unlock();
    send(wakes);
    do_host_task(*job, *task);
    lock.lock();
    --job->host_tasks;
    job->schedule.done(*task);
    job->progress += 1;
    wake_runners(wakes, *job);
    ended(wakes, job);
    return true;
  }
  return false;
}

bool Executor::run_once(Lock& lock, Wakes& wakes, int core) {
  for (std::size_t i = 0; i < jobs_.size(); ++i) {
    const std::shared_ptr<Job> job = jobs_[i];
    if (job->stop || !job->bench) continue;
    auto& benches = job->bench->cores;
    const auto mine = std::find_if(benches.begin(), benches.end(),
                                   [&](const CoreBench& bench) { return bench.core == core; });
    if (mine == benches.end()) continue;
    const auto lane = std::find_if(mine->lanes.begin(), mine->lanes.end(),
                                   [](const Lane& one) { return !one.busy; });
    if (lane == mine->lanes.end()) continue;
    const int stream = int(mine - benches.begin());
    const auto task = job->schedule.take_run(stream);
    if (!task) continue;
    lane->busy = true;
    std::rotate(jobs_.begin(), jobs_.begin() + std::ptrdiff_t(i) + 1, jobs_.end());
    ++job->in_flight;
    Core& here = *cores_[std::size_t(core)];
    if (here.running++ == 0) here.since = std::chrono::steady_clock::now();
    if (job->schedule.can_run(stream)) wakes.cores |= 1u << core;
    lock.unlock();
    send(wakes);
    do_run(*job, *task, *lane);
    lock.lock();
    lane->busy = false;
    if (--here.running == 0)
      work_.run_nanoseconds += std::uint64_t(
          std::chrono::nanoseconds(std::chrono::steady_clock::now() - here.since).count());
    // Its place is free for the next run, which a thread of its own brings if this one is busy.
    if (job->plan.sum_slot_bytes() > kNotWorthWaking && job->schedule.can_run(stream))
      wakes.cores |= 1u << core;
    lock.unlock();
    send(wakes);
    do_fetch(*job, *task);
    lock.lock();
    job->schedule.done(*task);
    job->progress += 1;
    if (!job->stop) wake_host(wakes, job);
    ended(wakes, job);
    return true;
  }
  return false;
}

/// A task of the job was done, for better or worse.
void Executor::ended(Wakes& wakes, const std::shared_ptr<Job>& job) {
  --job->in_flight;
  if (job->in_flight == 0 && (job->stop || job->schedule.finished())) wakes.callers.push_back(job);
}

void Executor::wake_runners(Wakes& wakes, const Job& job) {
  if (job.stop || !job.bench) return;
  for (std::size_t stream = 0; stream < job.bench->cores.size(); ++stream)
    if (job.schedule.can_run(int(stream))) wakes.cores |= 1u << job.bench->cores[stream].core;
}

void Executor::wake_host(Wakes& wakes, const std::shared_ptr<Job>& job) {
  if (std::exchange(job->caller_waits, false))
    wakes.callers.push_back(job);
  else if (idle_helpers_ > 0)
    ++wakes.helpers;
}

void Executor::send(Wakes& wakes) {
  for (; wakes.cores != 0; wakes.cores &= wakes.cores - 1)
    cores_[std::size_t(std::countr_zero(wakes.cores))]->woken.notify_one();
  for (; wakes.helpers > 0; --wakes.helpers) helpers_woken_.notify_one();
  for (const auto& job : wakes.callers) job->wake.notify_one();
  wakes.callers.clear();
}

/// False if there was nobody to wake; else something may have changed meanwhile.
bool Executor::send_unlocked(Lock& lock, Wakes& wakes) {
  if (!wakes.any()) return false;
  lock.unlock();
  send(wakes);
  lock.lock();
  return true;
}

namespace {

/// Calls `act`, and turns what it throws into the job's failure.
template <typename Act>
void safely(Job& job, int core, Act act) {
  try {
    act();
  } catch (const Error& error) {
    job.fail(core, error.kind(), error.what());
  } catch (const std::exception& error) {  // no host memory, most likely
    job.fail(core, ErrorKind::memory, error.what());
  }
}

}  // namespace

void Executor::do_host_task(Job& job, const Task& task) {
  const int core = job.bench->cores[std::size_t(task.stream)].core;
  safely(job, core, [&] {
    switch (task.kind) {
      case Task::Kind::pack_a:
        return pack_a(job, task.step, shop_);
      case Task::Kind::pack_b:
        return pack_b(job, task.step, shop_);
      default:
        return unpack(job, task.stream, task.step, shop_);
    }
  });
}

void Executor::do_fetch(Job& job, const Task& task) {
  if (job.stop) return;
  safely(job, job.bench->cores[std::size_t(task.stream)].core,
         [&] { fetch(job, task.stream, task.step, shop_); });
}

void Executor::do_run(Job& job, const Task& task, const Lane& lane) {
  Bench& bench = *job.bench;
  CoreBench& core = bench.cores[std::size_t(task.stream)];
  const Sums& sums = core.sums[std::size_t(task.step.sums)];
  TileOfA& a = bench.a[std::size_t(task.step.a_slot)];
  TileOfB& b = bench.b[std::size_t(task.step.b_slot)];
  const auto run_one = [&](device::Context& context, device::Memory& from_a, device::Memory& from_b,
                           device::Memory& to) {
    context.bind(from_a, from_b, to);
    {
      const auto [m, k, n, native] = context.shape();
      const trace::Run run(context.core(), job.plan.element, job.product,
                           context.a_bytes() + context.b_bytes() + context.c_bytes(),
                           2 * std::uint64_t(m) * std::uint64_t(k) * std::uint64_t(n));
      context.run();
    }
    work_.runs += 1;
    job.progress += 1;
  };
  safely(job, core.core, [&] {
    const bool split = job.plan.method == Method::float32;
    const bool stacked = split && !a.low_zero && lane.both;
    run_one(stacked ? **lane.both : *lane.context, *a.memory, **b.memory, *sums.main);
    if (!split) return;
    if (!a.low_zero && !stacked) run_one(*lane.context, **a.low, **b.memory, **sums.a_low);
    if (!b.low_zero) run_one(*lane.context, *a.memory, **b.low, **sums.b_low);
  });
}

}  // namespace npublas::exec
