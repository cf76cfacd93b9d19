// # The ufunc
// `npublas.matmul` is a NumPy gufunc with NumPy's own rules (type resolver, operand flags,
// signature: all copied from `np.matmul`) and our loops. Its one addition to a call, `precision=`
// and `device=`, is taken out of the arguments before NumPy sees them.
#pragma once

#include "numpy_api.hpp"

namespace npublas {

/// Makes it. A new reference, or null with an exception set.
PyObject* make_matmul(const char* doc);

/// Calls it for a product that another door has decided for the CPU, and counts.
PyObject* call_on_cpu(PyObject* matmul, PyObject* const* args, Py_ssize_t count, PyObject* names);

}  // namespace npublas
