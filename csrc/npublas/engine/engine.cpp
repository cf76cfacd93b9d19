#include "npublas/engine/engine.hpp"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

#include "npublas/base/error.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/exec/device_lock.hpp"
#include "npublas/exec/executor.hpp"

namespace npublas {
namespace {

using Clock = std::chrono::steady_clock;

/// What an open engine has. Freed in the reverse order.
struct Engine {
  EngineOptions options;
  std::shared_ptr<device::Runtime> runtime;
  std::array<exec::Verdict, kElements> verdicts;
  std::unique_ptr<exec::DeviceLock> lock;
  std::unique_ptr<exec::Executor> executor;
};

/// Everything that a forked child must not inherit.
struct State {
  std::mutex product;  // held by the one product that has the cores, and to open and close
  std::mutex fields;   // guards what follows, for moments only: reports never wait for a product
  std::shared_ptr<Engine> engine;
  std::string unavailable_because;

  std::shared_ptr<Engine> get() {
    const std::lock_guard lock(fields);
    return engine;
  }
  void set(std::shared_ptr<Engine> next) {
    const std::lock_guard lock(fields);
    engine.swap(next);
  }
};

State* state = new State;  // never destroyed: workers may outlive main

std::atomic<EngineState> engine_state_{EngineState::closed};

// The parent's threads and device handles mean nothing in a child, and its locks may be held.
const int at_fork = ::pthread_atfork(nullptr, nullptr, [] {
  state = new State;
  engine_state_ = EngineState::closed;
  trust::restart_after_fork();
});

/// Half of the file descriptors that the process may open, 512 at most: the rest is the program's.
int files_allowed() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  return int(std::min<rlim_t>(limit.rlim_cur / 2, 512));
}

PlanLimits limits_of(const Engine* engine, Element element) {
  PlanLimits limits;
  if (!engine) return limits;
  const device::Quirks& quirks = engine->runtime->quirks();
  limits.max_rows = engine->runtime->chip().max_rows;
  limits.max_columns = engine->runtime->chip().max_columns;
  limits.max_depth = element == Element::int8 ? quirks.max_depth_int8 : quirks.max_depth_float16;
  // What the window holds when it is empty.
  const std::size_t taken = std::min(kContextBytes, engine->options.memory_limit);
  limits.window_bytes = engine->options.memory_limit - taken;
  limits.cores = engine->options.cores;
  return limits;
}

Reason reason_of(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::memory:
      return Reason::memory;
    case ErrorKind::result:
      return Reason::wrong_result;
    default:
      return Reason::device_failed;
  }
}

Outcome outcome_of(const exec::Ending& ending) {
  switch (ending.ended) {
    case exec::Ended::done:
      return {.reason = Reason::npu, .overflowed = ending.overflowed};
    case exec::Ended::not_finite:
      return {.reason = Reason::not_finite};
    case exec::Ended::subnormal:
      return {.reason = Reason::subnormal};
    case exec::Ended::overflow:
      return {.reason = Reason::overflow};
  }
  return {.reason = Reason::device_failed};
}

/// Once on all cores; if a call fails, once more on one core with everything made anew.
Outcome run(Engine& engine, const Product& product, const Plan& plan) {
  const bool flushes = engine.verdicts[int(Element::float16)].flushes_subnormals;
  try {
    return outcome_of(engine.executor->run(plan, product, flushes));
  } catch (const Error& first) {
    if (engine.executor->stuck()) throw;
    engine.executor->window().clear();
    PlanLimits limits = limits_of(&engine, plan.element);
    limits.cores = 1;
    const auto smaller = npublas::plan(product.shape, plan.element, limits);
    if (!smaller) throw;
    // Not on the core that failed, if there is another.
    const int core = (engine.executor->failed_core() + 1) % engine.executor->cores();
    return outcome_of(engine.executor->run(*smaller, product, flushes, core));
  }
}

}  // namespace

EngineState engine_state() noexcept { return engine_state_.load(std::memory_order_relaxed); }

std::string unavailable_because() {
  const std::lock_guard lock(state->fields);
  return engine_state() == EngineState::unavailable ? state->unavailable_because : "";
}

void make_unavailable(const std::string& because) {
  const std::lock_guard lock(state->fields);
  state->unavailable_because = because;
  engine_state_ = EngineState::unavailable;
}

void open_engine(const EngineOptions& options) {
  const std::lock_guard lock(state->product);
  if (state->get()) return;
  engine_state_ = EngineState::opening;
  try {
    auto engine = std::make_shared<Engine>();
    engine->options = options;
    engine->runtime = device::Runtime::load(options.runtime);
    engine->lock = std::make_unique<exec::DeviceLock>(options.lock_file);
    if (!engine->lock->acquire(options.lock_patience))
      throw Error(ErrorKind::unavailable, "another process holds the NPU (" + options.lock_file +
                                              " is locked); try again when it is done");
    engine->runtime->learn_driver();
    engine->options.cores = std::min(options.cores, engine->runtime->chip().cores);
    trust::reset();
    for (const Element element : {Element::int8, Element::float16}) {
      exec::Verdict& verdict = engine->verdicts[std::size_t(element)];
      verdict = {.right = true, .flushes_subnormals = false};
      for (int core = 0; core < engine->options.cores && verdict.right; ++core) {
        const exec::Verdict next = exec::self_test(engine->runtime, element, core);
        verdict.right = next.right;
        verdict.problem = next.problem;
        verdict.flushes_subnormals |= next.flushes_subnormals && element == Element::float16;
      }
      if (!verdict.right) trust::turn_off(element);
    }
    engine->lock->release();
    engine->executor = std::make_unique<exec::Executor>(
        engine->runtime,
        exec::WindowLimits{.bytes = options.memory_limit, .files = files_allowed()},
        engine->options.cores, options.run_patience);
    state->set(std::move(engine));
    engine_state_ = EngineState::open;
  } catch (const std::exception& error) {
    make_unavailable(error.what());
    throw;
  }
}

void close_engine() {
  const std::unique_lock lock(state->product, std::try_to_lock);
  if (!lock)
    throw Error(
        ErrorKind::argument,
        "the NPU is busy with a product; runtime, memory_limit and cores can be changed when "
        "it is done");
  state->set(nullptr);
  engine_state_ = EngineState::closed;
  trust::reset();
}

Outcome multiply(const Product& product, const Settings&) noexcept {
  const auto start = Clock::now();
  Outcome outcome{.reason = Reason::device_failed};
  try {
    const std::lock_guard lock(state->product);
    const std::shared_ptr<Engine> engine = state->get();
    if (!engine) return {.reason = Reason::no_npu, .detail = unavailable_because()};
    const Element element = *element_of(product.in);
    const auto plan = npublas::plan(product.shape, element, limits_of(engine.get(), element));
    if (!plan) return {.reason = Reason::memory};
    if (!engine->lock->acquire(engine->options.lock_patience)) return {.reason = Reason::busy};
    const std::shared_ptr<void> unlock(nullptr, [&](void*) { engine->lock->release(); });
    try {
      outcome = run(*engine, product, *plan);
      trust::note_success();
    } catch (const Error& error) {
      outcome = {.reason = reason_of(error), .detail = error.what()};
      trust::note_failure(error.what());
      if (engine->executor->stuck()) {
        // A thread still hangs in the driver: nothing of this engine can be freed any more.
        engine->lock->release();
        make_unavailable(error.what());
        static_cast<void>(new std::shared_ptr<Engine>(engine));
        state->set(nullptr);
      } else {
        engine->executor->window().clear();
      }
    }
  } catch (const std::exception& error) {  // no host memory, at worst
    outcome = {.reason = Reason::device_failed, .detail = error.what()};
  }
  outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return outcome;
}

std::optional<Plan> plan_for(DType in, const Shape& shape) {
  const auto element = element_of(in);
  if (!element || shape.flops() == 0) return std::nullopt;
  return plan(shape, *element, limits_of(state->get().get(), *element));
}

EngineStatus engine_status() {
  EngineStatus status{.state = engine_state(), .unavailable_because = unavailable_because()};
  const std::shared_ptr<const Engine> engine = state->get();
  if (!engine) return status;
  const device::Runtime& runtime = *engine->runtime;
  status.runtime_path = runtime.path();
  status.runtime_version = runtime.version_text();
  status.driver_version = runtime.driver_text();
  status.fingerprint = runtime.fingerprint();
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
  status.pack_seconds = double(work.pack_nanoseconds) * 1e-9;
  status.run_seconds = double(work.run_nanoseconds) * 1e-9;
  status.unpack_seconds = double(work.unpack_nanoseconds) * 1e-9;
  return status;
}

}  // namespace npublas
