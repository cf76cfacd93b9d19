// The engine's rates, by name, and what was learnt about them since.
#include "npublas/engine/tuning.hpp"

#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "names.hpp"
#include "npublas/engine/measure.hpp"
#include "npublas/engine/threads.hpp"
#include "rates.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

struct Field {
  const char* name;
  double Rates::* value;
};

// All numbers of `Rates` but the rates by element and the number of threads.
constexpr Field kFields[] = {
    {"efficiency", &Rates::efficiency},
    {"core_bytes_per_second", &Rates::core_bytes_per_second},
    {"memory_bytes_per_second", &Rates::memory_bytes_per_second},
    {"submit_seconds", &Rates::submit_seconds},
    {"queued_seconds", &Rates::queued_seconds},
    {"slack", &Rates::slack},
    {"normal_factor", &Rates::normal_factor},
    {"call_seconds", &Rates::call_seconds},
    {"sync_seconds", &Rates::sync_seconds},
    {"sync_bytes_per_second", &Rates::sync_bytes_per_second},
    {"bind_seconds", &Rates::bind_seconds},
    {"handoff_seconds", &Rates::handoff_seconds},
    {"pack_bytes_per_second", &Rates::pack_bytes_per_second},
    {"pack_bytes_per_second_all", &Rates::pack_bytes_per_second_all},
    {"cpu_flops", &Rates::cpu_flops},
    {"cpu_bytes_per_second", &Rates::cpu_bytes_per_second},
    {"dram_bytes_per_second", &Rates::dram_bytes_per_second},
};

py::dict to_dict(const Rates& rates) {
  py::dict macs, result;
  for (const Element element : kAllElements)
    macs[npublas::name_of(element)] = rates.macs_per_second[int(element)];
  result["macs_per_second"] = macs;
  for (const Field& field : kFields) result[field.name] = rates.*field.value;
  result["threads"] = rates.threads;
  result["measured"] = rates.measured;
  return result;
}

Rates profile(const std::string& name) {
  if (name == "pessimistic") return pessimistic();
  if (name == "first") return first_rates();
  if (name == "target") return target_rates();
  if (name == "stretch") return stretch_rates();
  throw py::value_error("no profile " + name);
}

HostWork work_from(const std::string& name) {
  if (name == "pack_a") return HostWork::pack_a;
  if (name == "pack_b") return HostWork::pack_b;
  if (name == "unpack_c") return HostWork::unpack_c;
  throw py::value_error("no work of the host is called " + name);
}

void register_measuring(py::module_& module) {
  const auto device = [](const std::string& runtime, const std::string& lock_file,
                         int patience_ms) -> MeasuredDevice {
    return {runtime, lock_file, std::chrono::milliseconds(patience_ms)};
  };
  module.def(
      "measure_runs",
      [device](const std::string& runtime, const std::string& lock_file, int patience_ms,
               const std::string& element, const std::array<int, 3>& shape, bool native,
               const std::vector<int>& cores, int in_flight, int times, double pause) {
        const Runs runs{.element = element_from(element),
                        .rows = shape[0],
                        .depth = shape[1],
                        .columns = shape[2],
                        .layout = native ? Layout::native : Layout::normal,
                        .cores = cores,
                        .in_flight = in_flight,
                        .times = times,
                        .pause = std::chrono::microseconds(std::int64_t(pause * 1e6))};
        const py::gil_scoped_release release;
        MeasuredRuns measured = measure_runs(device(runtime, lock_file, patience_ms), runs);
        return std::pair(std::move(measured.seconds), measured.elapsed);
      },
      py::arg("runtime"), py::arg("lock_file"), py::arg("patience_ms"), py::kw_only(),
      py::arg("element"), py::arg("shape"), py::arg("native") = true, py::arg("cores"),
      py::arg("in_flight") = 1, py::arg("times"), py::arg("pause") = 0.0,
      "Run a shape on the NPU; return the seconds of each run, and of all together.");
  module.def(
      "measure_window",
      [device](const std::string& runtime, const std::string& lock_file, int patience_ms,
               std::size_t most) {
        const py::gil_scoped_release release;
        return measure_window(device(runtime, lock_file, patience_ms), most);
      },
      py::arg("runtime"), py::arg("lock_file"), py::arg("patience_ms"), py::arg("most"),
      "Return how many bytes of NPU memory could be had at once, up to `most`.");
  module.def(
      "measure_host",
      [](const std::string& work, int threads, double seconds) {
        const py::gil_scoped_release release;
        return measure_host(work_from(work), threads,
                            std::chrono::microseconds(std::int64_t(seconds * 1e6)));
      },
      py::arg("work"), py::arg("threads"), py::arg("seconds"),
      "Pack or unpack for so long; return the bytes read and written per second.");
  module.def(
      "measure_handoff",
      [](double seconds) {
        const py::gil_scoped_release release;
        return measure_handoff(std::chrono::microseconds(std::int64_t(seconds * 1e6)));
      },
      py::arg("seconds"),
      "Wake a thread again and again for so long; return the seconds that it takes to go on.");
}

}  // namespace

Rates changed(Rates rates, const py::dict& changes) {
  for (const auto& [key, value] : changes) {
    const std::string name = py::cast<std::string>(key);
    if (name == "macs_per_second") {
      for (const auto& [element_name, macs] : py::cast<py::dict>(value)) {
        bool known = false;
        for (const Element element : kAllElements) {
          if (py::cast<std::string>(element_name) != npublas::name_of(element)) continue;
          rates.macs_per_second[int(element)] = py::cast<double>(macs);
          known = true;
        }
        if (!known) throw py::value_error("no element " + py::cast<std::string>(element_name));
      }
      continue;
    }
    if (name == "threads") {
      rates.threads = py::cast<int>(value);
      continue;
    }
    if (name == "measured") {
      rates.measured = py::cast<bool>(value);
      continue;
    }
    bool known = false;
    for (const Field& field : kFields) {
      if (name != field.name) continue;
      rates.*field.value = py::cast<double>(value);
      known = true;
    }
    if (!known) throw py::value_error("no rate " + name);
  }
  return rates;
}

void register_tuning(py::module_& module) {
  module.def(
      "rates", [](const std::string& name) { return to_dict(profile(name)); }, py::arg("profile"),
      "Return the rates of a profile: 'pessimistic', 'first', 'target' or 'stretch'.");
  module.def("current_rates", [] { return to_dict(current_rates()); });
  module.def(
      "set_rates",
      [](const std::string& name, const py::dict& changes) {
        set_rates(changed(profile(name), changes));
      },
      py::arg("profile"), py::arg("changes") = py::dict(),
      "Decide and plan by the rates of a profile, with these changes, from now on.");
  module.def("set_correcting", &set_correcting, py::arg("on"),
             "Let decisions follow what products take, or not.");
  module.def("take_news", &take_news, "Return the next line about a correction, '' if none.");
  module.def(
      "host_threads", [](int wanted, int most) { return host_threads(wanted, most); },
      py::arg("wanted"), py::arg("most"),
      "Return how many threads a product of this thread has of the host; 0: nothing is said.");
  register_measuring(module);
}

}  // namespace npublas::python
