// # Deciding
// First what the settings and the types allow, then what pays, then what the device is trusted
// with. A decision for the CPU that nobody had asked the NPU for is no fallback.
#include "npublas/engine/engine.hpp"
#include "npublas/engine/limits.hpp"
#include "npublas/engine/trust.hpp"

namespace npublas {
namespace {

Decision cpu(Reason reason, bool fallback = false) {
  return {.on_npu = false, .reason = reason, .fallback = fallback};
}

}  // namespace

std::optional<Element> element_of(DType in) {
  switch (in) {
    case DType::int8:
    case DType::uint8:
      return Element::int8;
    case DType::float16:
    case DType::float32:
    case DType::float64:
      return Element::float16;
    default:
      return std::nullopt;
  }
}

Decision decide(const Settings& settings, DType in, DType out, const Shape& shape) noexcept {
  const bool demanded = settings.device == Device::npu;
  if (settings.device == Device::cpu) return cpu(Reason::device_cpu);
  if (shape.batch == 0 || shape.m == 0 || shape.k == 0 || shape.n == 0) return cpu(Reason::empty);
  if (demanded && engine_state() == EngineState::unavailable) return cpu(Reason::no_npu, true);

  const auto element = element_of(in);
  if (!element) return cpu(Reason::dtype, demanded);
  if (in == DType::float64 && settings.float64 == Float64::cpu)
    return cpu(Reason::float64, demanded);
  if (in == DType::float32 || in == DType::float64) {
    if (settings.precision == Precision::float32) return cpu(Reason::float32_accurate, demanded);
    if (settings.precision == Precision::int8) return cpu(Reason::int8_precision, true);
  }

  Decision decision{.on_npu = false, .reason = Reason::small, .fallback = false};
  if (!demanded) {
    if (!worth_predicting(shape)) return decision;
    const auto planned = plan(shape, *element, current_limits(*element));
    if (!planned) return cpu(Reason::window, true);
    const Prediction predicted = predict(*planned, in, out);
    decision.cpu_seconds = predicted.cpu_seconds;
    decision.npu_seconds = predicted.npu_seconds;
    if (predicted.npu_seconds >= predicted.cpu_seconds) return decision;
  }

  decision.fallback = demanded;
  decision.reason = Reason::no_npu;
  if (engine_state() == EngineState::unavailable) return decision;
  decision.fallback = true;
  decision.reason = Reason::busy;
  if (!demanded && trust::busy()) return decision;
  decision.reason = Reason::type_off;
  if (trust::is_off(*element)) return decision;
  decision.reason = Reason::quarantined;
  if (trust::quarantined()) return decision;
  decision.on_npu = true;
  decision.fallback = false;
  decision.reason = Reason::npu;
  return decision;
}

}  // namespace npublas
