#include "npublas/exec/executor.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/math/check.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas::exec {
namespace {

using Clock = std::chrono::steady_clock;

/// Adds the time of its scope to a counter.
class Timed {
 public:
  explicit Timed(std::atomic<std::uint64_t>& nanoseconds)
      : nanoseconds_(nanoseconds), since_(Clock::now()) {}
  ~Timed() {
    const auto spent = std::chrono::nanoseconds(Clock::now() - since_).count();
    nanoseconds_.fetch_add(std::uint64_t(spent), std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t>& nanoseconds_;
  Clock::time_point since_;
};

device::Type type_of(Element element) {
  return element == Element::int8 ? device::Type::int8 : device::Type::float16;
}

}  // namespace

/// What a worker needs for one tile: the same for every block of a plan, so it is borrowed once,
/// and for all workers before any of them starts, so that a repeated product finds everything
/// there.
struct Executor::Bench {
  Window::Loan<device::Context> context;
  Window::Loan<device::Memory> a, b, c;
};

/// One product while it is being computed. Shared with the workers, so that it outlives a caller
/// who has given up on one of them.
struct Executor::Job {
  Job(const Plan& p, const Product& q, bool flushes)
      : plan(p), product(q), flushes_subnormals(flushes) {}

  const Plan plan;
  const Product product;
  const bool flushes_subnormals;
  std::vector<std::pair<int, Bench>> benches;  // by core

  std::atomic<std::int64_t> next_block{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> overflowed{false}, underflowed{false};
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

namespace {

/// The right to touch the caller's memory for the length of a scope; false once it was withdrawn.
template <typename Job>
class Access {
 public:
  explicit Access(Job& job) : lock_(job.access), granted_(!job.abandoned) {}
  explicit operator bool() const { return granted_; }

 private:
  std::shared_lock<std::shared_mutex> lock_;
  bool granted_;
};

}  // namespace

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

Ending Executor::run(const Plan& plan, const Product& product, bool flushes_subnormals,
                     int first_core) {
  const auto job = std::make_shared<Job>(plan, product, flushes_subnormals);
  job->working = plan.cores;
  for (int i = 0; i < plan.cores; ++i) {
    failed_core_ = (first_core + i) % cores();
    job->benches.emplace_back(failed_core_, borrow(plan, failed_core_));
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
  job->benches.clear();  // now: a worker may hold on to the job for a moment longer
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

Executor::Bench Executor::borrow(const Plan& plan, int core) {
  auto context =
      window_->context(type_of(plan.element),
                       {int(plan.tile_rows), int(plan.tile_depth), int(plan.tile_columns)}, core);
  auto a = window_->memory(context->a_bytes());
  auto b = window_->memory(context->b_bytes());
  auto c = window_->memory(context->c_bytes());
  return {std::move(context), std::move(a), std::move(b), std::move(c)};
}

void Executor::take_blocks(Job& job, int core) {
  const auto bench = std::find_if(job.benches.begin(), job.benches.end(),
                                  [core](const auto& entry) { return entry.first == core; });
  const std::int64_t blocks = job.plan.blocks();
  while (!job.stop) {
    const std::int64_t index = job.next_block.fetch_add(1);
    if (index >= blocks) return;
    multiply(job, job.plan.block(index), bench->second);
  }
}

void Executor::multiply(Job& job, const Block& block, const Bench& bench) {
  const auto& [context, a, b, c] = bench;
  const Plan& plan = job.plan;
  const Product& product = job.product;
  const Shape& shape = product.shape;
  const Element element = plan.element;
  const std::int64_t tile_rows = plan.tile_rows, tile_depth = plan.tile_depth;
  const bool floats = element == Element::float16;

  std::vector<std::int32_t> row_exponents(std::size_t(tile_rows), 0);
  std::vector<std::int32_t> column_exponents(std::size_t(plan.tile_columns), 0);
  // float16 results are summed in float32 and rounded once, when the last partial sum is in.
  std::vector<float> sums(product.out == DType::float16 ? std::size_t(block.rows * block.columns)
                                                        : 0);

  const auto target_at = [&](std::int64_t row, std::int64_t rows) -> Target {
    if (!sums.empty())
      return {.data = sums.data() + row * block.columns,
              .row_stride = block.columns * std::ptrdiff_t(sizeof(float)),
              .column_stride = sizeof(float),
              .dtype = DType::float32,
              .rows = rows,
              .columns = block.columns};
    return {.data = product.c.at(block.batch, block.row + row, block.column),
            .row_stride = product.c.row_stride,
            .column_stride = product.c.column_stride,
            .dtype = product.out,
            .rows = rows,
            .columns = block.columns};
  };
  const auto acceptable = [&](const Packed& packed) {
    if (!packed.finite)
      job.end(Ended::not_finite);
    else if (packed.subnormal && job.flushes_subnormals)
      job.end(Ended::subnormal);
    return !job.stop;
  };

  for (std::int64_t k = 0; k < shape.k; k += tile_depth) {
    const std::int64_t depth = std::min(tile_depth, shape.k - k);
    Packed packed_b;
    {
      const Timed timed(work_.pack_nanoseconds);
      const Access access(job);
      if (!access) return;
      packed_b = pack_b({.data = product.b.at(block.batch, k, block.column),
                         .lane_stride = product.b.column_stride,
                         .depth_stride = product.b.row_stride,
                         .dtype = product.in,
                         .lanes = block.columns,
                         .depth = depth},
                        element, plan.tile_columns, tile_depth, b->data(), column_exponents.data());
    }
    if (!acceptable(packed_b)) return;
    b->to_device(&*context);
    work_.packed_bytes += context->b_bytes();

    for (std::int64_t row = 0; row < block.rows; row += tile_rows) {
      const std::int64_t rows = std::min(tile_rows, block.rows - row);
      Packed packed_a;
      {
        const Timed timed(work_.pack_nanoseconds);
        const Access access(job);
        if (!access) return;
        packed_a = pack_a({.data = product.a.at(block.batch, block.row + row, k),
                           .lane_stride = product.a.row_stride,
                           .depth_stride = product.a.column_stride,
                           .dtype = product.in,
                           .lanes = rows,
                           .depth = depth},
                          element, tile_rows, tile_depth, a->data(), row_exponents.data());
      }
      if (!acceptable(packed_a)) return;
      a->to_device(&*context);
      work_.packed_bytes += context->a_bytes();
      {
        const Timed timed(work_.run_nanoseconds);
        context->bind(*a, *b, *c);
        context->run();
        c->from_device(&*context);
      }
      work_.runs += 1;
      job.progress += 1;

      Unpacked unpacked;
      {
        const Timed timed(work_.unpack_nanoseconds);
        const Access access(job);
        if (!access) return;
        unpacked = unpack(c->data(), element, tile_rows, row_exponents.data(),
                          column_exponents.data(), k > 0, target_at(row, rows));
      }
      work_.unpacked_bytes += context->c_bytes();
      if (unpacked.zero && !packed_a.zero && !packed_b.zero &&
          !product_is_zero(a->data(), b->data(), element, tile_rows, tile_depth, plan.tile_columns,
                           job.flushes_subnormals))
        throw Error(ErrorKind::result, "rknn_matmul_run said success and returned zeros for a " +
                                           to_string(context->shape()) + " " + name_of(element) +
                                           " product that is not zero.");
      if (floats && !unpacked.finite) return job.end(Ended::overflow);
      if (unpacked.underflow) job.underflowed = true;
      if (job.stop) return;
    }
  }

  if (!sums.empty()) {
    const Access access(job);
    if (!access) return;
    const Rounded rounded = round_to_half(sums.data(), block.rows, block.columns,
                                          product.c.at(block.batch, block.row, block.column),
                                          product.c.row_stride, product.c.column_stride);
    if (rounded.overflow) job.overflowed = true;
    if (rounded.underflow) job.underflowed = true;
  }
}

}  // namespace npublas::exec
