// The engine as Python sees it: opened and closed by `_engine`, read by `_decide` and `_stats`.
#include "npublas/engine/engine.hpp"

#include <pybind11/stl.h>

#include "bindings.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

const char* name_of(EngineState state) {
  switch (state) {
    case EngineState::closed:
      return "closed";
    case EngineState::opening:
      return "opening";
    case EngineState::open:
      return "open";
    case EngineState::unavailable:
      return "unavailable";
  }
  return "";
}

DType dtype_from(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i)
    if (name == npublas::name_of(DType(i))) return DType(i);
  return DType::other;
}

/// The settings of a call as `_config` packs them: device, precision, float64, on_fallback.
Settings settings_from(int bits) {
  return {.device = Device(bits & 3),
          .precision = Precision(bits >> 2 & 3),
          .float64 = Float64(bits >> 4 & 1),
          .on_fallback = OnFallback(bits >> 5 & 3)};
}

py::dict to_dict(const Plan& plan) {
  py::dict result;
  result["element"] = npublas::name_of(plan.element);
  result["cores"] = plan.cores;
  result["tile"] = py::make_tuple(plan.tile_rows, plan.tile_depth, plan.tile_columns);
  result["block"] = py::make_tuple(plan.block_rows, plan.block_columns);
  result["blocks"] = plan.blocks();
  result["depth_tiles"] = plan.depth_tiles();
  result["runs"] = plan.runs();
  result["window_bytes"] = plan.bytes_per_core() * std::size_t(plan.cores);
  return result;
}

py::dict status() {
  EngineStatus status;
  {
    const py::gil_scoped_release release;
    status = engine_status();
  }
  py::dict types;
  for (int i = 0; i < kElements; ++i)
    types[npublas::name_of(Element(i))] = status.type_problems[std::size_t(i)];
  py::dict window;
  window["limit"] = status.options.memory_limit;
  window["bytes"] = status.window.bytes;
  window["peak_bytes"] = status.window.peak_bytes;
  window["memories"] = status.window.memories;
  window["contexts"] = status.window.contexts;
  window["files"] = status.window.files;
  window["memories_created"] = status.window.memories_created;
  window["contexts_created"] = status.window.contexts_created;
  window["evictions"] = status.window.evictions;
  window["contexts_unpinned"] = status.window.contexts_unpinned;
  py::dict work;
  work["runs"] = status.runs;
  work["retries"] = status.retries;
  work["packed_bytes"] = status.packed_bytes;
  work["unpacked_bytes"] = status.unpacked_bytes;
  work["pack_seconds"] = status.pack_seconds;
  work["run_seconds"] = status.run_seconds;
  work["unpack_seconds"] = status.unpack_seconds;
  py::dict result;
  result["state"] = name_of(status.state);
  result["unavailable_because"] = status.unavailable_because;
  result["runtime_path"] = status.runtime_path;
  result["runtime_version"] = status.runtime_version;
  result["driver_version"] = status.driver_version;
  result["fingerprint"] = status.fingerprint;
  result["chip"] = status.chip;
  result["simulated"] = status.simulated;
  result["cores"] = status.cores;
  result["lock_file"] = status.options.lock_file;
  result["type_problems"] = types;
  result["flushes_subnormals"] = status.flushes_subnormals;
  result["last_retry"] = status.last_retry;
  result["quarantined_because"] = status.quarantined_because;
  result["lock_problem"] = status.lock_problem;
  result["window"] = window;
  result["work"] = work;
  return result;
}

}  // namespace

void register_engine(py::module_& module) {
  module.def(
      "open_engine",
      [](const std::string& runtime, std::size_t memory_limit, int cores,
         const std::string& lock_file, int lock_patience_ms, int run_patience_ms) {
        const py::gil_scoped_release release;
        return open_engine({.runtime = runtime,
                            .memory_limit = memory_limit,
                            .cores = cores,
                            .lock_file = lock_file,
                            .lock_patience = std::chrono::milliseconds(lock_patience_ms),
                            .run_patience = std::chrono::milliseconds(run_patience_ms)});
      },
      py::kw_only(), py::arg("runtime"), py::arg("memory_limit"), py::arg("cores"),
      py::arg("lock_file"), py::arg("lock_patience_ms"), py::arg("run_patience_ms"));
  module.def("close_engine", &close_engine, py::call_guard<py::gil_scoped_release>());
  module.def("make_unavailable", &make_unavailable, py::arg("because"), py::kw_only(),
             py::arg("for_good"));
  module.def("engine_state", [] { return name_of(engine_state()); });
  module.def("engine_status", &status);

  module.def(
      "decide",
      [](int settings, const std::string& in, const std::string& out, std::int64_t batch,
         std::int64_t m, std::int64_t k, std::int64_t n) {
        const DType type = dtype_from(in);
        const Shape shape{batch, m, k, n};
        const Decision decision = decide(settings_from(settings), type, dtype_from(out), shape);
        py::dict result;
        result["on_npu"] = decision.on_npu;
        result["reason"] = text_of(decision.reason, type);
        result["fallback"] = decision.fallback;
        result["cpu_seconds"] = decision.cpu_seconds;
        result["npu_seconds"] = decision.npu_seconds;
        // Neither a plan nor a prediction for what these settings keep off the NPU anyway.
        const bool possible =
            decision.reason != Reason::float64 && decision.reason != Reason::float32_accurate &&
            decision.reason != Reason::int8_precision && decision.reason != Reason::device_cpu;
        const auto plan = possible ? plan_for(type, shape) : std::nullopt;
        if (plan) {
          result["plan"] = to_dict(*plan);
          const Prediction predicted = predict(*plan, type, dtype_from(out));
          result["cpu_seconds"] = predicted.cpu_seconds;
          result["npu_seconds"] = predicted.npu_seconds;
        } else {
          result["plan"] = py::none();
        }
        return result;
      },
      py::arg("settings"), py::arg("in_dtype"), py::arg("out_dtype"), py::arg("batch"),
      py::arg("m"), py::arg("k"), py::arg("n"));

  module.def("counts", [] {
    py::list rows;
    for (const Count& count : counts()) {
      py::dict row;
      row["on_npu"] = count.reason == Reason::npu;
      row["reason"] = text_of(count.reason, count.dtype);
      row["simulated"] = count.simulated;
      row["dtype"] = npublas::name_of(count.dtype);
      row["products"] = count.products;
      row["fallbacks"] = count.fallbacks;
      row["flops"] = count.flops;
      row["seconds"] = count.seconds;
      rows.append(row);
    }
    return rows;
  });
  module.def("reset_counts", &reset_counts);
}

}  // namespace npublas::python
