// # Deciding
// First what the settings and the types allow, then what pays, then what the device is trusted
// with. A decision for the CPU that nobody had asked the NPU for is no fallback.
#include <algorithm>
#include <vector>

#include "npublas/engine/engine.hpp"
#include "npublas/engine/limits.hpp"
#include "npublas/engine/planner.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/engine/tuning.hpp"
#include "npublas/math/int4.hpp"

namespace npublas {
namespace {

Decision cpu(Reason reason, bool fallback = false) {
  return {.on_npu = false, .reason = reason, .fallback = fallback};
}

std::optional<Method> method_for(DType a, DType b, Precision precision, const Weights* weights) {
  if (!weights) return method_of(a, b, precision);
  const Method method = weights->grid().method;
  // Integers that aren't quantised may be int4, too: no float is rounded for them unasked.
  if (method == Method::int4 && is_float(a) && precision != Precision::int8) return std::nullopt;
  if (method == Method::int4 && a == DType::int8) return method;
  const bool integers = method_of(a, weights->grid().dtype, precision) == Method::integers;
  if (method == Method::integers ? !integers : !is_float(a)) return std::nullopt;
  return method;
}

/// Products by weights of int4 can be multiplied as int8.
bool is_off(Method method) {
  return trust::is_off(element_of(method)) &&
         (method != Method::int4 || trust::is_off(Element::int8));
}

/// The ways of a product by weights of int4 whose types are on.
std::vector<Int4Way> ways_of(DType a, int a_limit) {
  const int parts = int4_parts(a, a_limit);
  std::vector<Int4Way> ways;
  if (parts != 0 && !trust::is_off(Element::int4)) ways.push_back({Element::int4, parts});
  // This one too if nothing is on, so that there is a plan to be shown.
  if (ways.empty() || !trust::is_off(Element::int8)) ways.push_back({Element::int8, 1});
  return ways;
}

std::optional<PackedTiles> tiles_of(const Weights* weights) {
  if (!weights) return std::nullopt;
  return PackedTiles{weights->grid().tile_depth, weights->grid().tile_columns};
}

/// float16 and bfloat16 are their high part alone, but for what is less than 2^-28 of the largest
/// of its row or column: scaled with that, it is below the normal float16.
bool needs_low(DType dtype) { return dtype != DType::float16 && dtype != DType::bfloat16; }

/// Every query for the product: one, but for weights of int4 one for each of their ways.
std::vector<PlanQuery> queries_for(DType a, DType b, DType out, Method method, const Shape& shape,
                                   const Weights* weights, int a_limit) {
  PlanQuery query{.shape = shape,
                  .method = method,
                  .packed = tiles_of(weights),
                  .bytes = source_bytes(a, b, out),
                  .low = {.a = needs_low(a), .b = weights ? weights->has_low() : needs_low(b)}};
  if (method != Method::int4) return {query};
  std::vector<PlanQuery> queries;
  for (const Int4Way& way : ways_of(a, a_limit)) {
    query.way = way;
    queries.push_back(query);
  }
  return queries;
}

PlanLimits limits_of(const PlanQuery& query, int cores) {
  PlanLimits limits =
      current_limits(query.method == Method::int4 ? query.way.element : element_of(query.method));
  if (cores != 0) limits.cores = cores;
  return limits;
}

/// The fastest of all queries for the product.
std::optional<Planned> planned_for(DType a, DType b, DType out, Method method, const Shape& shape,
                                   const Weights* weights, int cores, int a_limit) {
  std::optional<Planned> best;
  double least = 0;
  for (const PlanQuery& query : queries_for(a, b, out, method, shape, weights, a_limit)) {
    const auto one = planned(query, limits_of(query, cores));
    if (!one) continue;
    const double seconds =
        method == Method::int4
            ? estimate(one->plan, query.packed.has_value(), query.bytes, rates_of_plans()).seconds
            : one->npu_seconds;
    if (best && seconds >= least) continue;
    best = one;
    least = seconds;
  }
  return best;
}

}  // namespace

std::optional<Plan> plan_for(DType a, DType b, DType out, Precision precision, const Shape& shape,
                             const Weights* weights, int cores, int a_limit) {
  const auto method = method_for(a, b, precision, weights);
  if (!method || shape.flops() == 0) return std::nullopt;
  const auto best = planned_for(a, b, out, *method, shape, weights, cores, a_limit);
  return best ? std::optional(best->plan) : std::nullopt;
}

std::vector<Candidate> candidates_for(DType a, DType b, DType out, Precision precision,
                                      const Shape& shape, const Weights* weights, int a_limit,
                                      std::size_t count) {
  const auto method = method_for(a, b, precision, weights);
  if (!method || shape.flops() == 0) return {};
  std::vector<Candidate> all;
  for (const PlanQuery& query : queries_for(a, b, out, *method, shape, weights, a_limit))
    for (const Candidate& one : candidates(query, limits_of(query, 0), rates_of_plans(), count))
      all.push_back(one);
  std::stable_sort(all.begin(), all.end(), [](const Candidate& x, const Candidate& y) {
    return x.estimate.seconds < y.estimate.seconds;
  });
  if (all.size() > count) all.resize(count);
  return all;
}

Decision decide(const Settings& settings, DType a, DType b, DType out, const Shape& shape,
                const Weights* weights) noexcept {
  const bool demanded = settings.device == Device::npu;
  const auto method = method_for(a, b, settings.precision, weights);
  const Reason reason = reason_at_once(settings, a, shape, method.has_value());
  if (demanded && reason != Reason::empty && engine_state() == EngineState::unavailable)
    return cpu(Reason::no_npu, true);
  if (reason != Reason::npu) return cpu(reason, demanded && reason != Reason::empty);

  Decision decision{.on_npu = false, .reason = Reason::small, .fallback = false};
  if (!demanded) {
    const auto best = planned_for(a, b, out, *method, shape, weights, 0, 127);
    if (!best) return cpu(Reason::window, true);
    const Prediction predicted{cpu_seconds(shape, a, out, current_rates()), best->npu_seconds};
    decision.cpu_seconds = predicted.cpu_seconds;
    decision.npu_seconds =
        corrected_seconds(class_of(*method, weights != nullptr, shape), predicted);
    if (decision.npu_seconds >= decision.cpu_seconds) return decision;
  }

  decision.fallback = demanded;
  decision.reason = Reason::no_npu;
  if (engine_state() == EngineState::unavailable) return decision;
  decision.fallback = true;
  decision.reason = Reason::busy;
  if (!demanded && trust::busy()) return decision;
  decision.reason = Reason::type_off;
  if (is_off(*method)) return decision;
  decision.reason = Reason::quarantined;
  if (trust::quarantined()) return decision;
  decision.on_npu = true;
  decision.fallback = false;
  decision.reason = Reason::npu;
  return decision;
}

}  // namespace npublas
