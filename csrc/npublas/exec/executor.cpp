#include "npublas/exec/executor.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/exec/block.hpp"

namespace npublas::exec {
namespace {

device::Type type_of(Element element) {
  constexpr device::Type types[kElements] = {device::Type::int8, device::Type::float16,
                                             device::Type::int4};
  return types[int(element)];
}

}  // namespace

struct Executor::Worker {
  ~Worker() {
    if (!thread.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      quit = true;
    }
    woken.notify_one();
    thread.join();
  }

  std::mutex mutex;
  std::condition_variable woken;
  std::shared_ptr<Job> job;
  bool quit = false;
  std::thread thread;
};

Executor::Executor(std::shared_ptr<device::Runtime> runtime, const WindowLimits& limits, int cores,
                   std::chrono::milliseconds patience)
    : runtime_(std::move(runtime)),
      window_(std::make_unique<Window>(runtime_, limits)),
      patience_(patience) {
  for (int core = 0; core < cores; ++core) {
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    worker.thread = std::thread([this, &worker, core] { serve(worker, core); });
  }
}

Executor::~Executor() = default;  // the workers end with their last block, before the window does

Ending Executor::run(const Plan& plan, const Request& request, bool flushes_subnormals,
                     int first_core) {
  const auto job = std::make_shared<Job>(plan, request, flushes_subnormals);
  job->working = plan.cores;
  for (int i = 0; i < plan.cores; ++i) {
    failed_core_ = (first_core + i) % cores();
    job->benches.emplace_back(failed_core_, borrow(plan, request.weights != nullptr, failed_core_));
  }
  for (const auto& [core, bench] : job->benches) {
    Worker& worker = *workers_[std::size_t(core)];
    {
      const std::lock_guard lock(worker.mutex);
      worker.job = job;
    }
    worker.woken.notify_one();
  }

  std::unique_lock lock(job->mutex);
  std::uint64_t seen = 0;
  while (!job->finished.wait_for(lock, patience_, [&] { return job->working == 0; })) {
    const std::uint64_t progress = job->progress;
    if (progress != std::exchange(seen, progress)) continue;
    // Nothing came back for too long. Let everybody who still moves leave, then lock out the rest.
    job->stop = true;
    lock.unlock();
    const std::unique_lock exclusive(job->access);
    job->abandoned = true;
    stuck_ = true;
    throw Error(ErrorKind::timeout,
                "rknn_matmul_run did not come back within " + std::to_string(patience_.count()) +
                    " ms. The NPU is left alone for the rest of this process; if it hangs for "
                    "others too, reboot, and check that the driver is 0.9.8 or newer.");
  }
  // Now, and here: a worker may hold on to the job for a moment longer, and must not be the one who
  // frees the weights, which may belong to Python.
  job->benches.clear();
  if (request.weights && request.weights->is_closed()) window_->forget(request.weights->id());
  job->request.weights.reset();
  if (job->failed) {
    failed_core_ = job->failed_core;
    throw Error(job->error_kind, job->error);
  }
  return {.ended = job->ended, .overflowed = job->overflowed, .underflowed = job->underflowed};
}

void Executor::serve(Worker& worker, int core) {
  while (true) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(worker.mutex);
      worker.woken.wait(lock, [&] { return worker.quit || worker.job; });
      if (worker.quit) return;
      job = std::move(worker.job);
    }
    try {
      take_blocks(*job, core);
    } catch (const Error& error) {
      job->fail(core, error.kind(), error.what());
    } catch (const std::exception& error) {  // no host memory, most likely
      job->fail(core, ErrorKind::memory, error.what());
    }
    const std::lock_guard lock(job->mutex);
    --job->working;
    job->finished.notify_all();
  }
}

Bench Executor::borrow(const Plan& plan, bool weights, int core) {
  const device::Type type = type_of(plan.element);
  const int depth = int(plan.surface_depth());
  const bool split = plan.method == Method::float32;
  auto context =
      window_->context(type, {int(plan.surface_rows()), depth, int(plan.tile_columns)}, core);
  auto a = window_->memory(context->a_bytes() * (split ? 2 : 1));
  auto c = window_->memory(context->c_bytes());
  Bench bench{std::move(context), std::move(a), std::move(c), {}, {}, {}, {}, {}};
  const std::size_t b_bytes = bench.context->b_bytes();
  if (!weights) bench.b.emplace(window_->memory(b_bytes));
  if (!split) return bench;
  bench.joined.emplace(
      window_->context(type, {int(plan.tile_rows), 2 * depth, int(plan.tile_columns)}, core));
  bench.a_low.emplace(window_->memory(bench.context->a_bytes()));
  if (!weights) bench.b_cross.emplace(window_->memory(2 * b_bytes));
  bench.c_cross.emplace(window_->memory(bench.context->c_bytes()));
  return bench;
}

void Executor::take_blocks(Job& job, int core) {
  const auto bench = std::find_if(job.benches.begin(), job.benches.end(),
                                  [core](const auto& entry) { return entry.first == core; });
  const std::int64_t blocks = job.plan.blocks();
  while (!job.stop) {
    const std::int64_t index = job.next_block.fetch_add(1);
    if (index >= blocks) return;
    compute(job, job.plan.block(index), bench->second, *window_, work_);
  }
}

}  // namespace npublas::exec
