// # The loops
// What NumPy calls for each stack of products, one loop for each type. A loop decides, multiplies,
// and counts:
//
//   for the NPU:   open the engine if need be; multiply; on failure report, and go on below
//   for the CPU:   NumPy's own loop, or blocks of float32 for the small types
//
// Most products are small and for the CPU: for those a loop costs a few tens of nanoseconds.
#pragma once

#include "cpu.hpp"
#include "npublas/engine/product.hpp"
#include "numpy_api.hpp"

namespace npublas {

/// The type that NumPy's type number `type` is for us.
DType dtype_of(int type);

/// What the blocks of the small types are multiplied with. Set before any loop runs.
void set_float32_loop(const NumpyLoop& loop);

/// Every loop of the ufunc; `loop` is its `Loop`.
void run_loop(char** args, const npy_intp* dims, const npy_intp* steps, void* loop);

/// The same for a loop in the form that NumPy 2 takes new signatures in; false if an exception is
/// set.
bool run_loop(const Loop& loop, char* const* args, const npy_intp* dims, const npy_intp* steps);

}  // namespace npublas
