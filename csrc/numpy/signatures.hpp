// # Signatures that numpy.matmul doesn't have
// Products whose operands NumPy would widen first, of which the NPU would have to make small ones
// again:
//
//   int8, uint8 and mixed -> int32     for dtype=numpy.int32: exact
//   int8 and uint8 mixed  -> int16     what NumPy promises for them, modulo 2^16 as NumPy's
//   bfloat16 -> float32, bfloat16      ml_dtypes' type; the first is what numpy.matmul gives
//
// The first two need a function that NumPy 1.26 doesn't have: there they are NumPy's own.
#pragma once

#include <atomic>

#include "numpy_api.hpp"

namespace npublas {

/// Adds the integers' to the ufunc, and the rule by which calls without dtype= choose among all of
/// its signatures as `numpy`, np.matmul, does. False with an exception set.
bool add_signatures(PyUFuncObject* matmul, PyUFuncObject* numpy);

extern std::atomic<int> bfloat16_type;  ///< its type number, once the ufunc knows it; -1 before

/// True if these arguments of a call may have to do with bfloat16, and the ufunc doesn't know it.
/// Inline: it is asked on every call.
inline bool may_be_bfloat16(PyObject* const* args, Py_ssize_t positional, PyObject* names) {
  if (bfloat16_type.load(std::memory_order_relaxed) >= 0) return false;
  const Py_ssize_t all = positional + (names ? PyTuple_GET_SIZE(names) : 0);
  for (Py_ssize_t i = 0; i < all; ++i) {
    if (!PyArray_CheckExact(args[i])) return true;
    if (PyArray_TYPE(reinterpret_cast<PyArrayObject*>(args[i])) >= NPY_USERDEF) return true;
  }
  return false;
}
/// Adds bfloat16's to the ufunc if the program has imported ml_dtypes, and they aren't there yet.
/// Imports nothing. False with an exception set.
bool learn_bfloat16(PyObject* matmul);

}  // namespace npublas
