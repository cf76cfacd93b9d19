#include "npublas/engine/measure.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/device/context.hpp"
#include "npublas/device/runtime.hpp"
#include "npublas/engine/engine.hpp"
#include "npublas/exec/device_lock.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/unpack.hpp"

namespace npublas {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kStep = std::size_t(32) << 20;  // of the memory that is asked for

using Use = std::function<void(const std::shared_ptr<device::Runtime>&)>;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// What happens on a thread of its own, because a runtime may hang in it.
struct Visit {
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  std::exception_ptr error;
};

/// Calls `use` with a runtime whose device nobody else has. `use` owns all that it needs: a thread
/// that hangs outlives this call.
void visit(const MeasuredDevice& device, std::chrono::milliseconds patience, Use use) {
  if (engine_state() == EngineState::open)
    throw Error(ErrorKind::argument, "the NPU is measured while the engine is closed");
  exec::DeviceLock lock(device.lock_file);
  if (!lock.acquire(std::chrono::milliseconds(2000)))
    throw Error(ErrorKind::unavailable, "another process holds the NPU");
  const auto seen = std::make_shared<Visit>();
  std::thread([seen, use = std::move(use), name = device.runtime]() mutable {
    std::exception_ptr error;
    try {
      auto runtime = device::Runtime::load(name);
      runtime->learn_driver();
      use(runtime);
    } catch (...) {
      error = std::current_exception();
    }
    use = nullptr;
    const std::lock_guard guard(seen->mutex);
    seen->error = error;
    seen->done = true;
    seen->finished.notify_all();
  }).detach();
  std::unique_lock guard(seen->mutex);
  const bool came_back = seen->finished.wait_for(guard, patience, [&] { return seen->done; });
  lock.release();
  if (!came_back)
    throw Error(ErrorKind::timeout, "the NPU did not come back from a measurement within " +
                                        std::to_string(patience.count()) + " ms");
  if (seen->error) std::rethrow_exception(seen->error);
}

device::Type type_of(Element element) {
  if (element == Element::int4) return device::Type::int4;
  return element == Element::int8 ? device::Type::int8 : device::Type::float16;
}

/// A context with all that it is bound to.
struct Bound {
  Bound(const std::shared_ptr<device::Runtime>& runtime, const Runs& runs, int core)
      : context(runtime, type_of(runs.element),
                {runs.rows, runs.depth, runs.columns, runs.layout == Layout::native}, core),
        a(runtime, context.a_bytes()),
        b(runtime, context.b_bytes()),
        c(runtime, context.c_bytes()) {
    for (device::Memory* memory : {&a, &b}) {
      std::memset(memory->data(), 0, memory->size());
      memory->to_device(&context);
    }
    context.bind(a, b, c);
  }

  device::Context context;
  device::Memory a, b, c;
};

MeasuredRuns run_all(const std::shared_ptr<device::Runtime>& runtime, const Runs& runs) {
  std::vector<std::unique_ptr<Bound>> bound;
  for (const int core : runs.cores)
    for (int i = 0; i < runs.in_flight; ++i)
      bound.push_back(std::make_unique<Bound>(runtime, runs, core));
  std::vector<std::vector<double>> seconds(bound.size());
  std::vector<std::exception_ptr> errors(bound.size());
  std::vector<Clock::time_point> begins(bound.size()), ends(bound.size());
  std::barrier start(std::ptrdiff_t(bound.size()));
  const auto serve = [&](std::size_t i) {
    try {
      bound[i]->context.run();
    } catch (...) {
      errors[i] = std::current_exception();
    }
    start.arrive_and_wait();
    begins[i] = ends[i] = Clock::now();
    try {
      for (int time = 0; time < runs.times && !errors[i]; ++time) {
        if (runs.pause.count() > 0) std::this_thread::sleep_for(runs.pause);
        const auto begin = Clock::now();
        bound[i]->context.run();
        ends[i] = Clock::now();
        seconds[i].push_back(seconds_between(begin, ends[i]));
      }
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < bound.size(); ++i) threads.emplace_back(serve, i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  MeasuredRuns measured{.elapsed = seconds_between(*std::min_element(begins.begin(), begins.end()),
                                                   *std::max_element(ends.begin(), ends.end()))};
  for (const auto& mine : seconds)
    measured.seconds.insert(measured.seconds.end(), mine.begin(), mine.end());
  return measured;
}

/// Packs or unpacks a 2048 × 2048 matrix of float32 (16 MiB, more than an RK3588 has of caches) in
/// tiles, as products of float16 do.
class Bench {
 public:
  explicit Bench(HostWork work)
      : work_(work),
        matrix_(std::size_t(kSize * kSize), 1.0f),
        surface_(std::size_t(kSize * kTile)),
        sums_(std::size_t(kSize * kTile), 1.0f),
        scales_(std::size_t(kSize), 1.0) {}

  /// One pass; the bytes read and written.
  double pass() {
    constexpr std::ptrdiff_t kRow = kSize * std::ptrdiff_t(sizeof(float));
    const LaneNotes notes{.scales = scales_.data()};
    for (std::int64_t at = 0; at < kSize; at += kTile) {
      if (work_ == HostWork::pack_a) {  // rows, all of their depth
        pack_a({matrix_.data() + at * kSize, kRow, sizeof(float), DType::float32, kTile, kSize},
               {.coding = Coding::half}, Layout::normal, kTile, kSize, surface_.data(), nullptr,
               notes);
      } else if (work_ == HostWork::pack_b) {  // columns
        pack_b({matrix_.data() + at, sizeof(float), kRow, DType::float32, kTile, kSize},
               {.coding = Coding::half}, kTile, kSize, surface_.data(), nullptr, notes);
      } else {
        unpack_floats({sums_.data(), nullptr, nullptr}, {kSize, kTile, Layout::normal},
                      scales_.data(), scales_.data(), false,
                      {matrix_.data() + at, kRow, sizeof(float), DType::float32, kSize, kTile});
      }
    }
    const double elements = double(kSize) * double(kSize);
    return elements * (sizeof(float) + (work_ == HostWork::unpack_c ? 4 : 2));
  }

 private:
  static constexpr std::int64_t kSize = 2048, kTile = 256;

  HostWork work_;
  std::vector<float> matrix_;
  std::vector<std::uint16_t> surface_;
  std::vector<float> sums_;
  std::vector<double> scales_;
};

}  // namespace

MeasuredRuns measure_runs(const MeasuredDevice& device, const Runs& runs) {
  const auto measured = std::make_shared<MeasuredRuns>();
  // A simulator that computes may take seconds for a run; a device never does.
  const auto patience = device.patience + std::chrono::duration_cast<std::chrono::milliseconds>(
                                              runs.pause * std::int64_t(runs.times));
  visit(device, patience,
        [measured, runs](const auto& runtime) { *measured = run_all(runtime, runs); });
  return *measured;
}

std::size_t measure_window(const MeasuredDevice& device, std::size_t most) {
  const auto had = std::make_shared<std::size_t>(0);
  visit(device, device.patience, [had, most](const auto& runtime) {
    std::vector<std::unique_ptr<device::Memory>> memories;
    try {
      while (*had + kStep <= most) {
        memories.push_back(std::make_unique<device::Memory>(runtime, kStep));
        *had += kStep;
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::memory) throw;
    }
  });
  return *had;
}

double measure_host(HostWork work, int threads, std::chrono::microseconds duration) {
  std::vector<double> bytes(std::size_t(threads), 0);
  std::vector<Clock::time_point> ends(bytes.size());
  Clock::time_point begin;
  std::barrier start(threads, [&]() noexcept { begin = Clock::now(); });
  const auto serve = [&](std::size_t i) {
    Bench bench(work);
    bench.pass();
    start.arrive_and_wait();
    do {
      bytes[i] += bench.pass();
      ends[i] = Clock::now();
    } while (ends[i] - begin < duration);
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < bytes.size(); ++i) others.emplace_back(serve, i);
  serve(0);
  for (std::thread& thread : others) thread.join();
  double rate = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) rate += bytes[i] / seconds_between(begin, ends[i]);
  return rate;
}

double measure_handoff(std::chrono::microseconds duration) {
  constexpr auto kBetween = std::chrono::microseconds(200);  // about what a run takes
  std::mutex mutex;
  std::condition_variable woken;
  bool sleeps = false, called = false, quit = false;
  Clock::time_point since;
  std::vector<double> seconds;
  std::thread sleeper([&] {
    std::unique_lock lock(mutex);
    while (true) {
      sleeps = true;
      woken.wait(lock, [&] { return called; });
      called = false;
      if (quit) return;
      seconds.push_back(seconds_between(since, Clock::now()));
    }
  });
  const auto busy_until = [](Clock::time_point end) {
    while (Clock::now() < end) continue;
  };
  const Clock::time_point end = Clock::now() + duration;
  do {
    busy_until(Clock::now() + kBetween);
    const std::lock_guard lock(mutex);
    if (!std::exchange(sleeps, false)) continue;  // it didn't get so far
    quit = Clock::now() >= end && !seconds.empty();
    called = true;
    since = Clock::now();
    woken.notify_one();
  } while (!quit);
  sleeper.join();
  std::nth_element(seconds.begin(), seconds.begin() + std::ptrdiff_t(seconds.size() / 2),
                   seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace npublas
