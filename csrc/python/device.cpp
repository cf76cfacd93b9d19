// The runtime as Python sees it: what a library is, before anything is opened.
#include <pybind11/stl.h>

#include "bindings.hpp"
#include "npublas/device/runtime.hpp"

namespace py = pybind11;

namespace npublas::python {

void register_device(py::module_& module) {
  module.def(
      "probe_runtime",
      [](const std::string& which) {
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
      },
      py::arg("runtime"),
      "Load a runtime, without talking to a device, and return what it is. Throws NpuError.");
}

}  // namespace npublas::python
