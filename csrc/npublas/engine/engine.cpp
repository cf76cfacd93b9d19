#include "npublas/engine/engine.hpp"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <utility>

#include "npublas/base/error.hpp"
#include "npublas/engine/kept.hpp"
#include "npublas/engine/limits.hpp"
#include "npublas/engine/planner.hpp"
#include "npublas/engine/threads.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/engine/tuning.hpp"
#include "npublas/exec/device_lock.hpp"
#include "npublas/exec/executor.hpp"
#include "npublas/exec/trace.hpp"

namespace npublas {
namespace {

using Clock = std::chrono::steady_clock;

/// What an open engine has. Freed in the reverse order.
struct Engine {
  EngineOptions options;
  std::shared_ptr<device::Runtime> runtime;
  std::string fingerprint;
  std::array<exec::Verdict, kElements> verdicts;
  std::unique_ptr<exec::DeviceLock> lock;
  std::unique_ptr<exec::Executor> executor;
  std::uint64_t retries = 0;  // both under State::fields
  std::string last_retry;
};

/// Everything that a forked child must not inherit.
struct State {
  std::shared_mutex use;  // held shared by products, and alone to open and close
  std::mutex fields;      // guards what follows, for moments only: reports never wait for a product
  std::shared_ptr<Engine> engine;
  std::string unavailable_because;
  std::string given_up_because;  // a thread hangs in the driver: never opened again

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

// When an unavailable engine may be tried again.
constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kOfItsOwn = exec::kOwnContexts * kContextBytes;
constexpr int kOpeningsTolerated = 3;
constexpr std::chrono::milliseconds kOpeningPatience{200};  // for another process's lock
std::atomic<std::int64_t> retry_at{kNever};                 // steady clock, nanoseconds
std::atomic<int> openings_failed{0};                        // in a row

std::int64_t nanoseconds_now() {
  return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

void note_failed_opening() {
  const int beyond = ++openings_failed - kOpeningsTolerated;
  const std::int64_t seconds = beyond <= 0 ? 0 : std::int64_t(1) << std::min(beyond - 1, 6);
  retry_at = nanoseconds_now() + seconds * 1'000'000'000;
}

// The parent's threads and device handles mean nothing in a child, and its locks may be held.
const int at_fork = ::pthread_atfork(nullptr, nullptr, [] {
  state = new State;
  engine_state_ = EngineState::closed;
  openings_failed = 0;
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

/// Nothing of the engine can be freed any more, and the device isn't opened again.
void give_up(std::shared_ptr<Engine> engine, const std::string& because) {
  {
    const std::lock_guard lock(state->fields);
    state->given_up_because = because;
  }
  make_unavailable(because, true);
  state->set(nullptr);
  static_cast<void>(new std::shared_ptr<Engine>(std::move(engine)));
}

/// What the self-tests found. On a thread of their own, because a runtime may hang in them.
struct Trial {
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  std::array<exec::Verdict, kElements> verdicts;
};

/// The first calls that need the device; tried again if they fail, like any product's.
void learn_driver(device::Runtime& runtime) {
  for (int tries = 1;; ++tries) {
    try {
      return runtime.learn_driver();
    } catch (const Error&) {
      if (tries == 3) throw;
    }
  }
}

/// A wrong answer counts at once; a call that failed is tried again, like any product's.
exec::Verdict self_test(const std::shared_ptr<device::Runtime>& runtime, Element element,
                        int core) {
  exec::Verdict verdict;
  for (int tries = 0; tries < 3 && !verdict.right && !verdict.wrong; ++tries)
    verdict = exec::self_test(runtime, element, core);
  return verdict;
}

/// False if the tests did not come back.
bool self_test(Engine& engine) {
  const auto trial = std::make_shared<Trial>();
  std::thread([trial, runtime = engine.runtime, cores = engine.options.cores]() mutable {
    std::array<exec::Verdict, kElements> verdicts;
    for (const Element element : kAllElements) {
      exec::Verdict& verdict = verdicts[std::size_t(element)];
      verdict = {.right = true, .row_major = true, .flushes_subnormals = false};
      for (int core = 0; core < cores && verdict.right; ++core) {
        const exec::Verdict next = self_test(runtime, element, core);
        verdict.right = next.right;
        verdict.wrong = next.wrong;
        verdict.row_major &= next.row_major;
        verdict.problem = next.problem;
        verdict.flushes_subnormals |= next.flushes_subnormals && element == Element::float16;
      }
    }
    runtime.reset();  // now, so that nothing of it is left when the engine is closed
    const std::lock_guard lock(trial->mutex);
    trial->verdicts = verdicts;
    trial->done = true;
    trial->finished.notify_all();
  }).detach();
  std::unique_lock lock(trial->mutex);
  if (!trial->finished.wait_for(lock, engine.options.run_patience, [&] { return trial->done; }))
    return false;
  engine.verdicts = trial->verdicts;
  return true;
}

Reason reason_of(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::memory:
      return Reason::memory;
    case ErrorKind::result:
      return Reason::wrong_result;
    case ErrorKind::file:
      return Reason::weights_file;
    default:
      return Reason::device_failed;
  }
}

Outcome outcome_of(const exec::Ending& ending) {
  switch (ending.ended) {
    case exec::Ended::done:
      return {.reason = Reason::npu,
              .overflowed = ending.overflowed,
              .underflowed = ending.underflowed};
    case exec::Ended::not_finite:
      return {.reason = Reason::not_finite};
    case exec::Ended::subnormal:
      return {.reason = Reason::subnormal};
    case exec::Ended::precision:
      return {.reason = Reason::precision_loss};
    case exec::Ended::needs_source:
      return {.reason = Reason::precision_loss,
              .detail = "needs the source of the packed weights for a few of its elements"};
    case exec::Ended::beyond:  // `run_on` has seen to it
    case exec::Ended::overflow:
      return {.reason = Reason::overflow};
  }
  return {.reason = Reason::device_failed};
}

/// `in_parts`: float16 operands as the float32 method takes them.
std::optional<Plan> plan_of(const Request& request, const Settings& settings, int cores = 0,
                            bool in_parts = false) {
  const Product& product = request.product;
  if (in_parts) {
    PlanLimits limits = current_limits(Element::float16);
    if (cores != 0) limits.cores = cores;
    const auto best = planned({.shape = product.shape,
                               .method = Method::float32,
                               .bytes = source_bytes(product.a_type, product.b_type, product.out)},
                              limits);
    return best ? std::optional(best->plan) : std::nullopt;
  }
  return plan_for(product.a_type, product.b_type, product.out, settings.precision, product.shape,
                  request.weights.get(), cores, request.a_limit);
}

/// Runs the request by `plan`, and once more in another way if that doesn't suit the operands.
Outcome run_on(Engine& engine, std::optional<Plan> plan, Request request, const Settings& settings,
               Kept& kept, int cores = 0, int first_core = 0) {
  const bool flushes = engine.verdicts[int(Element::float16)].flushes_subnormals;
  // float16 operands that would be subnormal go in two parts, on every device, as packed ones do.
  const bool has_parts = !request.weights && request.product.a_type == DType::float16 &&
                         settings.precision == Precision::float32;
  bool in_parts = false;
  while (true) {
    if (!plan) return {.reason = Reason::window};
    if (trust::is_off(plan->element)) return {.reason = Reason::type_off};
    const exec::Ending ending =
        engine.executor->run(*plan, request, flushes || has_parts,
                             host_threads(settings.threads, engine.options.threads), first_core);
    if (ending.ended == exec::Ended::beyond && request.a_limit != 127)
      request.a_limit = 127;  // not the int4 that was promised: as int8, which takes all
    else if (ending.ended == exec::Ended::subnormal && has_parts && !in_parts)
      in_parts = true;
    else
      return outcome_of(ending);
    kept.put_back();
    plan = plan_of(request, settings, cores, in_parts);
  }
}

/// Once on all cores; if a call fails, once more on one core with everything made anew.
Outcome run(Engine& engine, const Plan& plan, const Request& request, const Settings& settings,
            Kept& kept) {
  try {
    return run_on(engine, plan, request, settings, kept);
  } catch (const Error& first) {
    if (engine.executor->stuck() || first.kind() == ErrorKind::file) throw;
    engine.executor->window().clear();
    kept.put_back();
    // Not on the core that failed, if there is another.
    const int core = (engine.executor->failed_core() + 1) % engine.executor->cores();
    const Outcome outcome =
        run_on(engine, plan_of(request, settings, 1), request, settings, kept, 1, core);
    const std::lock_guard lock(state->fields);
    ++engine.retries;
    engine.last_retry = first.what();
    return outcome;
  }
}

}  // namespace

EngineState engine_state() noexcept {
  const EngineState now = engine_state_.load(std::memory_order_relaxed);
  if (now == EngineState::unavailable &&
      nanoseconds_now() >= retry_at.load(std::memory_order_relaxed))
    return EngineState::closed;
  return now;
}

std::string unavailable_because() {
  const std::lock_guard lock(state->fields);
  return engine_state_ == EngineState::unavailable ? state->unavailable_because : "";
}

void make_unavailable(const std::string& because, bool for_good) {
  const std::lock_guard lock(state->fields);
  state->unavailable_because = because;
  if (for_good) retry_at = kNever;
  engine_state_ = EngineState::unavailable;
}

bool open_engine(const EngineOptions& options) {
  if (state->get()) return true;
  const std::lock_guard lock(state->use);
  if (state->get()) return true;
  engine_state_ = EngineState::opening;
  retry_at = kNever;
  bool loaded = false;
  try {
    {
      const std::lock_guard fields(state->fields);
      if (!state->given_up_because.empty())
        throw Error(ErrorKind::unavailable, state->given_up_because);
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
    if (!self_test(*engine)) {
      const std::string because = "the NPU did not answer its self-test within " +
                                  std::to_string(options.run_patience.count()) +
                                  " ms, and is left alone for the rest of this process. If it "
                                  "hangs for others too, reboot, "
                                  "and check that the driver is 0.9.8 or newer.";
      give_up(engine, because);
      throw Error(ErrorKind::unavailable, because);
    }
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
    state->set(std::move(engine));
    engine_state_ = EngineState::open;
    openings_failed = 0;
    return true;
  } catch (const std::exception& error) {  // Error, or no thread, or no host memory
    bool given_up = false;
    {
      const std::lock_guard fields(state->fields);
      given_up = !state->given_up_because.empty();
    }
    if (loaded && !given_up) note_failed_opening();
    make_unavailable(error.what(), given_up);
    if (dynamic_cast<const Error*>(&error) != nullptr) throw;
    throw Error(ErrorKind::unavailable, error.what());
  }
}

void close_engine() {
  const std::unique_lock lock(state->use, std::try_to_lock);
  if (!lock)
    throw Error(ErrorKind::argument,
                "the NPU is busy with a product; runtime, memory_limit and cores can be changed "
                "when it is done");
  engine_state_ = EngineState::closed;
  reset_limits();
  trust::reset();
  openings_failed = 0;
  state->set(nullptr);
}

Outcome multiply(const Request& request, const Settings& settings) noexcept {
  const auto start = Clock::now();
  Outcome outcome{.reason = Reason::device_failed};
  try {
    const std::shared_lock lock = [] {
      const trace::Span span(trace::Act::wait, trace::here, trace::this_product());
      return std::shared_lock(state->use);
    }();
    const std::shared_ptr<Engine> engine = state->get();
    if (!engine) return {.reason = Reason::no_npu, .detail = unavailable_because()};
    const auto plan = [&] {
      const trace::Span span(trace::Act::plan, trace::here, trace::this_product());
      return plan_of(request, settings);
    }();
    if (!plan) return {.reason = Reason::window};
    trace::note_method(plan->method);
    // Known since the decision was made, which may be long ago if many wait for their turn.
    if (trust::is_off(plan->element)) return {.reason = Reason::type_off};
    if (trust::quarantined()) return {.reason = Reason::quarantined};
    // Whoever demands the NPU waits for it; whoever wants the faster one, no longer than the CPU
    // takes.
    auto patience = engine->options.lock_patience;
    const Prediction predicted = predict(*plan, request.product.a_type, request.product.out,
                                         request.weights != nullptr, current_rates());
    if (settings.device != Device::npu) {
      patience =
          std::min(patience, std::chrono::milliseconds(std::int64_t(predicted.cpu_seconds * 1e3)));
    }
    if (!engine->lock->acquire(patience)) {
      trust::note_busy();
      return {.reason = Reason::busy};
    }
    const std::shared_ptr<void> unlock(nullptr, [&](void*) { engine->lock->release(); });
    Kept kept(request.product, request.epilogue.beta != 0);
    try {
      const ProductTimer timer;
      outcome = run(*engine, *plan, request, settings, kept);
      if (outcome.reason == Reason::npu) {
        timer.note(class_of(plan->method, request.weights != nullptr, plan->shape),
                   predicted.npu_seconds);
      } else {
        kept.put_back();
      }
      trust::note_success();
    } catch (const Error& error) {
      kept.put_back();
      outcome = {.reason = reason_of(error), .detail = error.what()};
      if (outcome.reason == Reason::weights_file) return outcome;  // not the device's fault
      trust::note_failure(error.what());
      if (engine->executor->stuck())
        give_up(engine, error.what());
      else
        engine->executor->window().clear();
    } catch (...) {
      kept.put_back();
      throw;
    }
  } catch (const std::exception& error) {  // no host memory, at worst
    outcome = {.reason = Reason::device_failed, .detail = error.what()};
  }
  outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return outcome;
}

void forget(const Weights& weights) noexcept {
  weights.close();  // a product under way forgets them when it ends
  const std::shared_ptr<Engine> engine = state->get();
  if (engine && engine->executor) engine->executor->window().forget(weights.id());
}

EngineStatus engine_status() {
  EngineStatus status{.state = engine_state(), .unavailable_because = unavailable_because()};
  const std::lock_guard lock(
      state->fields);  // so that the engine isn't freed meanwhile, and not here
  const Engine* const engine = state->engine.get();
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
