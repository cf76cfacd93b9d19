// # Products that Python asks for
// The door of everything beside the gufunc: what NumPy's loops have no room for (packed weights,
// bias, activation) is decided, multiplied and counted from here. Arrays come with any strides, as
// matrices or stacks of them; Python sees to shapes, types and alignment.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "names.hpp"
#include "npublas/base/integers.hpp"
#include "npublas/engine/engine.hpp"
#include "npublas/engine/planner.hpp"
#include "npublas/engine/tuning.hpp"
#include "npublas/math/pack.hpp"
#include "npublas/math/replay.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

using SharedWeights = std::shared_ptr<Weights>;
using MaybeWeights = std::optional<SharedWeights>;
using Scales = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bias = py::array_t<double, py::array::c_style | py::array::forcecast>;

// In the order of `Reason`.
constexpr const char* kReasonNames[] = {
    "npu",        "device_cpu",    "empty",          "small",       "dtype",
    "float64",    "no_npu",        "type_off",       "quarantined", "busy",
    "not_finite", "subnormal",     "precision_loss", "overflow",    "window",
    "memory",     "device_failed", "weights_file",   "wrong_result"};
static_assert(std::size(kReasonNames) == kReasons);

Reason reason_from(const std::string& name) {
  for (int i = 0; i < kReasons; ++i)
    if (name == kReasonNames[i]) return Reason(i);
  throw py::value_error("no reason is called '" + name + "'");
}

/// A type of any array: one that the core has no name for is still decided about, and counted.
DType any_dtype(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i)
    if (name == npublas::name_of(DType(i))) return DType(i);
  return DType::other;
}
/// By NumPy's numbers, where they say it: spelling the name takes microseconds.
DType dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (const char order = dtype.byteorder(); order == '=' || order == '|') {
    switch (dtype.num()) {
      case py::detail::npy_api::NPY_BYTE_:
        return DType::int8;
      case py::detail::npy_api::NPY_UBYTE_:
        return DType::uint8;
      case py::detail::npy_api::NPY_INT_:
        return DType::int32;
      case py::detail::npy_api::NPY_FLOAT_:
        return DType::float32;
      case py::detail::npy_api::NPY_DOUBLE_:
        return DType::float64;
      default:
        break;
    }
  }
  return any_dtype(py::str(dtype));
}

/// The settings of a call as `_config` packs them: device, precision, float64, on_fallback,
/// threads.
Settings settings_from(int bits) {
  return {.device = Device(bits & 3),
          .precision = Precision(bits >> 2 & 3),
          .float64 = Float64(bits >> 4 & 1),
          .on_fallback = OnFallback(bits >> 5 & 3),
          .threads = std::uint8_t(bits >> 16 & 127)};
}

/// How a plan cuts a product: what is told of the plans beside the one that is chosen, too.
py::dict cut_of(const Plan& plan, double seconds) {
  py::dict result;
  result["element"] = npublas::name_of(plan.element);
  result["layout"] = npublas::name_of(plan.layout);
  result["tile"] = py::make_tuple(plan.tile_rows, plan.tile_depth, plan.tile_columns);
  result["block"] = py::make_tuple(plan.block_rows, plan.block_columns);
  result["cores"] = plan.cores;
  result["seconds"] = seconds;
  return result;
}

py::dict to_dict(const Plan& plan, double seconds) {
  py::dict result = cut_of(plan, seconds);
  result["method"] = npublas::name_of(plan.method);
  result["parts"] = plan.parts;
  result["slots"] = py::make_tuple(plan.a_slots, plan.b_slots);
  result["blocks"] = plan.blocks();
  result["depth_tiles"] = plan.depth_tiles();
  result["runs"] = plan.runs();
  result["window_bytes"] = plan.window_bytes();
  return result;
}

const Weights* pointer_to(const MaybeWeights& weights) {
  return weights ? weights->get() : nullptr;
}

py::dict decide_for(int settings_bits, const std::string& a_name, const std::string& b_name,
                    const std::string& out_name, std::int64_t batch, std::int64_t m, std::int64_t k,
                    std::int64_t n, const MaybeWeights& weights, bool b_is_packed) {
  const DType a = any_dtype(a_name), b = any_dtype(b_name), out = any_dtype(out_name);
  const Settings settings = settings_from(settings_bits);
  const Shape shape{batch, m, k, n};
  Decision decision = decide(settings, a, b, out, shape, pointer_to(weights));
  if (b_is_packed && decision.reason == Reason::small) {
    if (const auto plan = plan_for(a, b, out, settings.precision, shape)) {
      const auto [cpu, npu] = predict(*plan, a, out, true, current_rates());
      if (npu < cpu) decision = {true, Reason::npu, false, cpu, npu};
    }
  }
  py::dict result;
  result["on_npu"] = decision.on_npu;
  result["code"] = kReasonNames[int(decision.reason)];
  result["reason"] = text_of(decision.reason, a);
  result["fallback"] = decision.fallback;
  result["cpu_seconds"] = decision.cpu_seconds;
  result["npu_seconds"] = decision.npu_seconds;
  return result;
}

py::object planned(int settings_bits, const std::string& a_name, const std::string& b_name,
                   const std::string& out_name, std::int64_t batch, std::int64_t m, std::int64_t k,
                   std::int64_t n, const MaybeWeights& weights, int a_limit) {
  const DType a = any_dtype(a_name), b = any_dtype(b_name), out = any_dtype(out_name);
  const Precision precision = settings_from(settings_bits).precision;
  const Shape shape{batch, m, k, n};
  const bool packed = weights.has_value();
  const auto plan = plan_for(a, b, out, precision, shape, pointer_to(weights), 0, a_limit);
  if (!plan) return py::none();
  const Prediction predicted = predict(*plan, a, out, packed, current_rates());
  const SourceBytes bytes = source_bytes(a, b, out);
  const Estimate estimated = estimate(*plan, packed, bytes, rates_of_plans());
  const Compulsory least = compulsory_bytes(*plan, packed, bytes);
  // As it is replayed, since replays choose among the best.
  const auto seconds_of = [&](const Plan& one) {
    return replay(one, {.b_is_packed = packed, .bytes = bytes}, rates_of_plans()).seconds;
  };
  py::dict result = to_dict(*plan, seconds_of(*plan));
  result["host_bytes"] = estimated.packed_bytes + estimated.unpacked_bytes;
  result["npu_bytes"] = estimated.streamed_bytes;
  result["least_host_bytes"] = least.host_bytes;
  result["least_npu_bytes"] = least.streamed_bytes;
  py::list others;
  for (const Candidate& one :
       candidates_for(a, b, out, precision, shape, pointer_to(weights), a_limit, 6))
    if (!(one.plan == *plan) && others.size() < 5)
      others.append(cut_of(one.plan, seconds_of(one.plan)));
  result["runners_up"] = others;
  result["cpu_seconds"] = predicted.cpu_seconds;
  result["npu_seconds"] = corrected_seconds(class_of(plan->method, packed, shape), predicted);
  return result;
}

/// A matrix, or a stack of them, which a single one is broadcast to.
template <typename Pointer>
BasicView<Pointer> view_of(const py::array& array, Pointer data, std::int64_t batch,
                           std::int64_t rows, std::int64_t columns) {
  const py::ssize_t axis = array.ndim() - 2;
  if (axis < 0 || axis > 1 || array.shape(axis) != rows || array.shape(axis + 1) != columns ||
      (axis == 1 && array.shape(0) != batch))
    throw py::value_error("the arrays don't fit together");
  return {.data = data,
          .batch_stride = axis == 1 ? array.strides(0) : 0,
          .row_stride = array.strides(axis),
          .column_stride = array.strides(axis + 1)};
}

py::dict multiply_arrays(const py::array& a, const std::optional<py::array>& b, py::array& out,
                         const MaybeWeights& maybe_weights, int settings_bits,
                         const std::optional<Bias>& bias, const std::string& activation,
                         double alpha, double beta, const std::optional<Scales>& a_scales,
                         int a_limit, bool pin) {
  const SharedWeights weights = maybe_weights.value_or(nullptr);
  if (!b && !weights) throw py::value_error("neither an array nor weights to multiply with");
  if (out.ndim() < 2 || a.ndim() < 2) throw py::value_error("the arrays don't fit together");
  const Shape shape{.batch = out.ndim() == 3 ? out.shape(0) : 1,
                    .m = out.shape(out.ndim() - 2),
                    .k = a.shape(a.ndim() - 1),
                    .n = out.shape(out.ndim() - 1)};
  if (weights && (weights->grid().k != shape.k || weights->grid().n != shape.n ||
                  (weights->grid().batch != 1 && weights->grid().batch != shape.batch)))
    throw py::value_error("the weights don't fit the arrays");
  if (a_scales && (!weights || a_scales->size() != weights->grid().depth_tiles()))
    throw py::value_error("fixed scales are one for each K tile of weights");
  if (bias && bias->size() != shape.n) throw py::value_error("a bias has one number per column");

  Request request{.product = {.a_type = dtype_of(a),
                              .b_type = b ? dtype_of(*b) : weights->grid().dtype,
                              .out = dtype_of(out),
                              .shape = shape,
                              .a = view_of(a, a.data(), shape.batch, shape.m, shape.k),
                              .c = view_of(out, out.mutable_data(), shape.batch, shape.m, shape.n)},
                  .weights = weights,
                  .pin = pin,
                  .epilogue = {.alpha = alpha,
                               .beta = beta,
                               .bias = bias ? bias->data() : nullptr,
                               .activation = activation_from(activation)},
                  .a_scales = a_scales ? a_scales->data() : nullptr,
                  .a_limit = a_limit};
  if (b) request.product.b = view_of(*b, b->data(), shape.batch, shape.k, shape.n);
  const Settings settings = settings_from(settings_bits);
  Outcome outcome{};
  {
    const py::gil_scoped_release release;
    outcome = multiply(request, settings);
  }
  py::dict result;
  result["on_npu"] = outcome.reason == Reason::npu;
  result["code"] = kReasonNames[int(outcome.reason)];
  result["reason"] = text_of(outcome.reason, request.product.a_type);
  result["detail"] = outcome.detail;
  result["seconds"] = outcome.seconds;
  result["overflowed"] = outcome.overflowed;
  result["underflowed"] = outcome.underflowed;
  return result;
}

/// True if an operand of the float32 method has low parts that aren't zero. Packs it, until it
/// knows.
bool has_low_parts(const py::array& operand, bool is_a, std::int64_t tile_depth) {
  constexpr std::int64_t kLanes = 64;
  const py::ssize_t axis = operand.ndim() - 2;
  if (axis < 0 || axis > 1) throw py::value_error("an operand is a matrix, or a stack of them");
  const std::int64_t lanes = operand.shape(axis + !is_a), depth = operand.shape(axis + is_a);
  const View view{.data = operand.data(),
                  .batch_stride = axis == 1 ? operand.strides(0) : 0,
                  .row_stride = operand.strides(axis),
                  .column_stride = operand.strides(axis + 1)};
  const std::int64_t batch = axis == 1 ? operand.shape(0) : 1;
  const DType dtype = dtype_of(operand);
  const py::gil_scoped_release release;
  const std::int64_t surface_depth = round_up(tile_depth, kDepthStep);
  std::vector<std::uint16_t> high(std::size_t(kLanes * surface_depth)), low(high.size());
  std::vector<double> scales(kLanes);
  std::vector<LaneLoss> losses(kLanes);
  for (std::int64_t item = 0; item < batch; ++item) {
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
      for (std::int64_t k = 0; k < depth; k += tile_depth) {
        const Lanes part{.data = is_a ? view.at(item, lane, k) : view.at(item, k, lane),
                         .lane_stride = is_a ? view.row_stride : view.column_stride,
                         .depth_stride = is_a ? view.column_stride : view.row_stride,
                         .dtype = dtype,
                         .lanes = std::min(kLanes, lanes - lane),
                         .depth = std::min(tile_depth, depth - k)};
        // Nothing but the losses counts, and they are the same for rows as for columns.
        const Packed packed =
            pack_b(part, {.coding = Coding::split}, kLanes, surface_depth, high.data(), low.data(),
                   {.scales = scales.data(), .losses = losses.data()});
        if (!packed.low_zero) return true;
      }
    }
  }
  return false;
}

}  // namespace

void register_product(py::module_& module) {
  module.def("decide", &decide_for, py::arg("settings"), py::arg("a_dtype"), py::arg("b_dtype"),
             py::arg("out_dtype"), py::arg("batch"), py::arg("m"), py::arg("k"), py::arg("n"),
             py::arg("weights") = py::none(), py::arg("b_is_packed") = false,
             "Decide where a product would run, and why; `b_is_packed`: as if it were.");
  module.def("plan_for", &planned, py::arg("settings"), py::arg("a_dtype"), py::arg("b_dtype"),
             py::arg("out_dtype"), py::arg("batch"), py::arg("m"), py::arg("k"), py::arg("n"),
             py::arg("weights") = py::none(), py::kw_only(), py::arg("a_limit") = 127,
             "Return how a product would be cut, and how long it would take; or None.");
  module.def("has_low_parts", &has_low_parts, py::arg("operand"), py::kw_only(), py::arg("is_a"),
             py::arg("tile_depth"),
             "Tell whether an operand in float32 needs more than one float16 for each element.");
  module.def("multiply", &multiply_arrays, py::arg("a"), py::arg("b"), py::arg("out"),
             py::arg("weights"), py::arg("settings"), py::kw_only(), py::arg("bias") = py::none(),
             py::arg("activation") = "none", py::arg("alpha") = 1.0, py::arg("beta") = 0.0,
             py::arg("a_scales") = py::none(), py::arg("a_limit") = 127, py::arg("pin") = false,
             "Multiply on the NPU, which is open. Unless 'on_npu', nothing of `out` is a result.");
  module.def(
      "count",
      [](const std::string& dtype, std::int64_t batch, std::int64_t m, std::int64_t k,
         std::int64_t n, const std::string& code, bool fallback, double seconds) {
        count(any_dtype(dtype), {batch, m, k, n}, reason_from(code), fallback, seconds);
      },
      py::arg("a_dtype"), py::arg("batch"), py::arg("m"), py::arg("k"), py::arg("n"),
      py::arg("code"), py::arg("fallback"), py::arg("seconds"), "Count a product.");
  module.def(
      "forget", [](const SharedWeights& weights) { forget(*weights); },
      py::call_guard<py::gil_scoped_release>(), py::arg("weights").none(false),
      "Free what the NPU's window holds of the weights.");
}

}  // namespace npublas::python
