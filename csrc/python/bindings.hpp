// # The `_core` module
// What Python reads of the core and tells it: one register function per file, called by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace npublas::python {

void register_device(pybind11::module_& module);
void register_engine(pybind11::module_& module);
void register_math(pybind11::module_& module);
void register_planning(pybind11::module_& module);
void register_product(pybind11::module_& module);
void register_trace(pybind11::module_& module);
void register_tuning(pybind11::module_& module);
void register_weights(pybind11::module_& module);

}  // namespace npublas::python
