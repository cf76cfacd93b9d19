// # Names
// What Python calls the core's choices, read in one place. Each throws ValueError for a name that
// isn't one.
#pragma once

#include <string>

#include "npublas/base/dtype.hpp"
#include "npublas/math/finish.hpp"
#include "npublas/math/layout.hpp"
#include "npublas/math/method.hpp"

namespace npublas::python {

DType dtype_from(const std::string& name);
Method method_from(const std::string& name);
Activation activation_from(const std::string& name);
Element element_from(const std::string& name);
Layout layout_from(const std::string& name);

}  // namespace npublas::python
