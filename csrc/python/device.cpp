// # The runtime as Python sees it
// What a library is, before anything is opened, and the rules by which the loader judges libraries,
// drivers and chips, so that a diagnosis says the same as the loader does.
#include <pybind11/stl.h>

#include <string>
#include <tuple>

#include "bindings.hpp"
#include "npublas/device/runtime.hpp"

namespace py = pybind11;

namespace npublas::python {
namespace {

std::tuple<int, int, int> tuple_of(const device::Version& version) {
  return {version.major, version.minor, version.patch};
}

py::dict probe_runtime(const std::string& which) {
  std::shared_ptr<device::Runtime> runtime;
  std::string fingerprint;
  {
    const py::gil_scoped_release release;
    runtime = device::Runtime::load(which);
    fingerprint = runtime->fingerprint();
  }
  py::dict result;
  result["path"] = runtime->path();
  result["version"] = runtime->version_text();
  result["fingerprint"] = fingerprint;
  result["chip"] = runtime->chip().name;
  result["simulated"] = runtime->is_simulated();
  result["untested"] = runtime->quirks().untested;
  result["known_bad"] = runtime->quirks().known_bad;
  return result;
}

py::dict read_runtime(const std::string& path) {
  const std::string text = device::version_text_in(path);
  const device::Version version = device::parse_version(text);
  const device::Quirks quirks = device::quirks_of(version);
  py::dict result;
  result["version"] = text;
  result["simulated"] = device::says_simulator(text);
  result["unsupported"] = quirks.unsupported;
  result["untested"] = quirks.untested;
  result["known_bad"] = quirks.known_bad;
  return result;
}

}  // namespace

void register_device(py::module_& module) {
  module.def(
      "probe_runtime", &probe_runtime, py::arg("runtime"),
      "Load a runtime, without talking to a device, and return what it is. Throws NpuError.");
  module.def("read_runtime", &read_runtime, py::arg("path"),
             "Return what a library file says of itself and what that means, without loading it.");
  module.def("runtime_candidates", &device::candidate_paths,
             "Return the places where runtime='auto' looks for librknnrt.so, in order.");
  module.def("simulator_path", &device::simulator_path,
             "Return the path of the simulator that runtime='simulator' loads.");
  module.def(
      "parse_version",
      [](const std::string& text) { return tuple_of(device::parse_version(text)); },
      py::arg("text"), "Return the first version in a text, (0, 0, 0) if there is none.");
  module.def(
      "chip_name",
      [](const py::bytes& compatible) -> std::string {
        const device::Chip* const chip = device::chip_from_device_tree(compatible);
        return chip == nullptr ? "" : chip->name;
      },
      py::arg("compatible"), "Return the supported chip of a device tree, '' if it has none.");
  module.def(
      "soc_name",
      [](const py::bytes& compatible) { return device::soc_from_device_tree(compatible); },
      py::arg("compatible"), "Return the Rockchip SoC of a device tree, '' if it has none.");
  module.attr("OLDEST_RUNTIME") = tuple_of(device::kOldestRuntime);
  module.attr("RECOMMENDED_RUNTIME") = tuple_of(device::kRecommendedRuntime);
  module.attr("OLDEST_DRIVER") = tuple_of(device::kOldestDriver);
  module.attr("RECOMMENDED_DRIVER") = tuple_of(device::kRecommendedDriver);
}

}  // namespace npublas::python
