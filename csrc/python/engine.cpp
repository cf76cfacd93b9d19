// The engine as Python sees it: opened and closed by `_engine`, read by `_stats` and `_info`.
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
  window["weight_bytes"] = status.window.weight_bytes;
  window["pinned_bytes"] = status.window.pinned_bytes;
  py::dict work;
  work["runs"] = status.runs;
  work["retries"] = status.retries;
  work["weights_filled"] = status.window.weights_filled;
  work["weights_found"] = status.window.weights_found;
  work["recomputed"] = status.recomputed;
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
  result["threads"] = status.options.threads;
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
      [](const std::string& runtime, std::size_t memory_limit, int cores, int threads,
         const std::string& lock_file, int lock_patience_ms, int run_patience_ms) {
        const py::gil_scoped_release release;
        return open_engine({.runtime = runtime,
                            .memory_limit = memory_limit,
                            .cores = cores,
                            .threads = threads,
                            .lock_file = lock_file,
                            .lock_patience = std::chrono::milliseconds(lock_patience_ms),
                            .run_patience = std::chrono::milliseconds(run_patience_ms)});
      },
      py::kw_only(), py::arg("runtime"), py::arg("memory_limit"), py::arg("cores"),
      py::arg("threads") = 0, py::arg("lock_file"), py::arg("lock_patience_ms"),
      py::arg("run_patience_ms"));
  module.def("close_engine", &close_engine, py::call_guard<py::gil_scoped_release>());
  module.def("make_unavailable", &make_unavailable, py::arg("because"), py::kw_only(),
             py::arg("for_good"));
  module.def("engine_state", [] { return name_of(engine_state()); });
  module.def("engine_status", &status);

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
