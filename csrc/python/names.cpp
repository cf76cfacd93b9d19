#include "names.hpp"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace npublas::python {

DType dtype_from(const std::string& name) {
  for (int i = 0; i < kDTypes; ++i)
    if (name == name_of(DType(i))) return DType(i);
  throw py::value_error("no element type is called '" + name + "'");
}

Method method_from(const std::string& name) {
  for (int i = 0; i < kMethods; ++i)
    if (name == name_of(Method(i))) return Method(i);
  throw py::value_error("no method is called '" + name + "'");
}

Activation activation_from(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "silu") return Activation::silu;
  throw py::value_error("no activation is called '" + name + "'");
}

Element element_from(const std::string& name) {
  for (const Element element : kAllElements)
    if (name == name_of(element)) return element;
  throw py::value_error("no element is called '" + name + "'");
}

Layout layout_from(const std::string& name) {
  if (name == "native") return Layout::native;
  if (name == "normal") return Layout::normal;
  throw py::value_error("layout must be 'native' or 'normal', not '" + name + "'");
}

}  // namespace npublas::python
