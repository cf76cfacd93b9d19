// # Opening and closing
// One runtime is loaded, its device put to the test, and what plans are made within set by what was
// found. An opening that fails is tried again by the next products, and after a while less often.
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/engine/backoff.hpp"
#include "npublas/engine/limits.hpp"
#include "npublas/engine/opened.hpp"
#include "npublas/engine/trial.hpp"
#include "npublas/engine/trust.hpp"

namespace npublas {
namespace {

constexpr std::size_t kOfItsOwn = exec::kOwnContexts * kContextBytes;
constexpr std::chrono::milliseconds kOpeningPatience{200};  // for another process's lock

Opened* the_opened = new Opened;
std::atomic<EngineState> engine_state_{EngineState::closed};
constinit Backoff openings(3);  // when an unavailable engine may be tried again

// The parent's threads and device handles mean nothing in a child, and its locks may be held.
const int at_fork = ::pthread_atfork(nullptr, nullptr, [] {
  the_opened = new Opened;
  engine_state_ = EngineState::closed;
  openings.reset();
  reset_limits();
  trust::restart_after_fork();
  exec::drop_lock_after_fork();
});

/// Half of the file descriptors that the process may open, 512 at most: the rest is the program's.
int files_allowed() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  return int(std::min<rlim_t>(limit.rlim_cur / 2, 512));
}

}  // namespace

Opened& opened() noexcept { return *the_opened; }

void give_up(std::shared_ptr<Engine> engine, const std::string& because) {
  {
    const std::lock_guard lock(opened().fields);
    opened().given_up_because = because;
  }
  make_unavailable(because, true);
  opened().set(nullptr);
  static_cast<void>(new std::shared_ptr<Engine>(std::move(engine)));
}

EngineState engine_state() noexcept {
  const EngineState now = engine_state_.load(std::memory_order_relaxed);
  return now == EngineState::unavailable && !openings.waits() ? EngineState::closed : now;
}

std::string unavailable_because() {
  const std::lock_guard lock(opened().fields);
  return engine_state_ == EngineState::unavailable ? opened().unavailable_because : "";
}

void make_unavailable(const std::string& because, bool for_good) {
  const std::lock_guard lock(opened().fields);
  opened().unavailable_because = because;
  if (for_good) openings.wait_for_good();
  engine_state_ = EngineState::unavailable;
}

bool open_engine(const EngineOptions& options) {
  if (opened().get()) return true;
  const std::lock_guard lock(opened().use);
  if (opened().get()) return true;
  engine_state_ = EngineState::opening;
  openings.wait_no_longer();
  bool loaded = false;
  try {
    {
      const std::lock_guard fields(opened().fields);
      if (!opened().given_up_because.empty())
        throw Error(ErrorKind::unavailable, opened().given_up_because);
    }
    auto engine = std::make_shared<Engine>();
    engine->options = options;
    engine->runtime = device::Runtime::load(options.runtime);
    engine->fingerprint = engine->runtime->fingerprint();
    loaded = true;
    engine->lock = std::make_unique<exec::DeviceLock>(options.lock_file);
    if (!engine->lock->acquire(std::min(options.lock_patience, kOpeningPatience))) {
      trust::note_busy();
      engine_state_ = EngineState::closed;
      return false;
    }
    const std::shared_ptr<void> unlock(nullptr,
                                       [file = engine->lock.get()](void*) { file->release(); });
    learn_driver(*engine->runtime);
    engine->options.cores = std::min(options.cores, engine->runtime->chip().cores);
    const auto verdicts = try_device(engine->runtime, engine->options.cores, options.run_patience);
    if (!verdicts) {
      const std::string because = "the NPU did not answer its self-test within " +
                                  std::to_string(options.run_patience.count()) +
                                  " ms, and is left alone for the rest of this process. If it "
                                  "hangs for others too, reboot, "
                                  "and check that the driver is 0.9.8 or newer.";
      give_up(engine, because);
      throw Error(ErrorKind::unavailable, because);
    }
    engine->verdicts = *verdicts;
    // Without int4 there is still an NPU: older runtimes and other chips have none.
    const auto& [first, second, third] = engine->verdicts;
    if (!first.right && !second.right && !first.wrong && !second.wrong)
      throw Error(ErrorKind::device, first.problem);  // nothing works, and nothing was wrong
    engine->executor = std::make_unique<exec::Executor>(
        engine->runtime,
        exec::WindowLimits{.bytes = options.memory_limit, .files = files_allowed()},
        engine->options.cores, options.run_patience);

    trust::reset();
    for (const Element element : kAllElements)
      if (!engine->verdicts[std::size_t(element)].right) trust::turn_off(element);
    const device::Quirks& quirks = engine->runtime->quirks();
    const int depths[kElements] = {quirks.max_depth_int8, quirks.max_depth_float16,
                                   quirks.max_depth_int4};
    bool row_major[kElements];
    for (int i = 0; i < kElements; ++i) row_major[i] = engine->verdicts[std::size_t(i)].row_major;
    set_limits({.max_rows = engine->runtime->chip().max_rows,
                .max_columns = engine->runtime->chip().max_columns,
                // Less the context of the window's memories, and those to sync through.
                .window_bytes = options.memory_limit - std::min(kOfItsOwn, options.memory_limit),
                .cores = engine->options.cores,
                // Some for what the window keeps of other products.
                .files = files_allowed() / 8 * 7},
               depths, row_major);
    count_as_simulated(engine->runtime->is_simulated());
    opened().set(std::move(engine));
    engine_state_ = EngineState::open;
    openings.note_success();
    return true;
  } catch (const std::exception& error) {  // Error, or no thread, or no host memory
    bool given_up = false;
    {
      const std::lock_guard fields(opened().fields);
      given_up = !opened().given_up_because.empty();
    }
    const bool for_good = !loaded || given_up;
    if (!for_good) openings.note_failure();
    make_unavailable(error.what(), for_good);
    if (dynamic_cast<const Error*>(&error) != nullptr) throw;
    throw Error(ErrorKind::unavailable, error.what());
  }
}

void close_engine() {
  const std::unique_lock lock(opened().use, std::try_to_lock);
  if (!lock)
    throw Error(ErrorKind::argument,
                "the NPU is busy with a product; runtime, memory_limit and cores can be changed "
                "when it is done");
  engine_state_ = EngineState::closed;
  reset_limits();
  trust::reset();
  openings.note_success();
  opened().set(nullptr);
}

EngineStatus engine_status() {
  EngineStatus status{.state = engine_state(), .unavailable_because = unavailable_because()};
  // So that the engine isn't freed meanwhile, and not here.
  const std::lock_guard lock(opened().fields);
  const Engine* const engine = opened().engine.get();
  if (!engine) return status;
  const device::Runtime& runtime = *engine->runtime;
  status.runtime_path = runtime.path();
  status.runtime_version = runtime.version_text();
  status.driver_version = runtime.driver_text();
  status.fingerprint = engine->fingerprint;
  status.lock_problem = engine->lock->problem();
  status.retries = engine->retries;
  status.last_retry = engine->last_retry;
  status.chip = runtime.chip().name;
  status.simulated = runtime.is_simulated();
  status.cores = engine->options.cores;
  status.options = engine->options;
  for (int i = 0; i < kElements; ++i)
    status.type_problems[std::size_t(i)] = engine->verdicts[std::size_t(i)].problem;
  status.flushes_subnormals = engine->verdicts[int(Element::float16)].flushes_subnormals;
  if (trust::quarantined()) status.quarantined_because = trust::last_failure();
  status.window = engine->executor->window().usage();
  const exec::Work& work = engine->executor->work();
  status.runs = work.runs;
  status.packed_bytes = work.packed_bytes;
  status.unpacked_bytes = work.unpacked_bytes;
  status.recomputed = work.recomputed;
  status.pack_seconds = double(work.pack_nanoseconds) * 1e-9;
  status.run_seconds = double(work.run_nanoseconds) * 1e-9;
  status.unpack_seconds = double(work.unpack_nanoseconds) * 1e-9;
  return status;
}

}  // namespace npublas
