#include "npublas/engine/engine.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "npublas/base/error.hpp"
#include "npublas/engine/kept.hpp"
#include "npublas/engine/limits.hpp"
#include "npublas/engine/opened.hpp"
#include "npublas/engine/planner.hpp"
#include "npublas/engine/threads.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/engine/tuning.hpp"
#include "npublas/exec/trace.hpp"

namespace npublas {
namespace {

using Clock = std::chrono::steady_clock;

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
    const std::lock_guard lock(opened().fields);
    ++engine.retries;
    engine.last_retry = first.what();
    return outcome;
  }
}

}  // namespace

Outcome multiply(const Request& request, const Settings& settings) noexcept {
  const auto start = Clock::now();
  Outcome outcome{.reason = Reason::device_failed};
  try {
    const std::shared_lock lock = [] {
      const trace::Span span(trace::Act::wait, trace::here, trace::this_product());
      return std::shared_lock(opened().use);
    }();
    const std::shared_ptr<Engine> engine = opened().get();
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
  const std::shared_ptr<Engine> engine = opened().get();
  if (engine && engine->executor) engine->executor->window().forget(weights.id());
}

}  // namespace npublas
