#include "bindings.hpp"
#include "npublas/base/error.hpp"

namespace py = pybind11;

namespace {

/// The class of npublas.errors that an ErrorKind is in Python.
const char* class_of(npublas::ErrorKind kind) {
  switch (kind) {
    case npublas::ErrorKind::unavailable:
      return "NpuUnavailableError";
    case npublas::ErrorKind::memory:
      return "NpuMemoryError";
    case npublas::ErrorKind::timeout:
      return "NpuTimeoutError";
    case npublas::ErrorKind::result:
      return "NpuResultError";
    case npublas::ErrorKind::device:
      return "NpuDeviceError";
    case npublas::ErrorKind::file:
      return "WeightsFileError";
    case npublas::ErrorKind::argument:
      return "NpuError";
  }
  return "NpuError";
}

}  // namespace

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() =
      "The core of npublas: engine, plans and layouts. Private; use the npublas package.";
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const npublas::Error& error) {
      const py::object type = py::module_::import("npublas.errors").attr(class_of(error.kind()));
      py::set_error(type, error.what());
    }
  });
  npublas::python::register_device(module);
  npublas::python::register_engine(module);
  npublas::python::register_math(module);
  npublas::python::register_planning(module);
  npublas::python::register_weights(module);
  npublas::python::register_product(module);
  npublas::python::register_trace(module);
  npublas::python::register_tuning(module);
}
