// # Rates by name
#pragma once

#include <pybind11/pybind11.h>

#include "npublas/math/rates.hpp"

namespace npublas::python {

/// What is not named stays as it is in `rates`. Throws ValueError for a name that is no rate.
Rates changed(Rates rates, const pybind11::dict& changes);

}  // namespace npublas::python
