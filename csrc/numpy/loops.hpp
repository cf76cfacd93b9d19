// # The loops
// What NumPy calls for each stack of products, one loop for each type. A loop decides, multiplies,
// and counts:
//
//   for the NPU:   open the engine if need be; multiply; on failure report, and go on below
//   for the CPU:   NumPy's own loop, or blocks of float32 for int8, uint8 and float16
//
// Most products are small and for the CPU: for those a loop costs a few tens of nanoseconds.
#pragma once

#include "cpu.hpp"
#include "npublas/engine/product.hpp"
#include "numpy_api.hpp"

namespace npublas {

struct Loop {
  DType in, out;
  NumpyLoop numpy;  ///< NumPy's own loop for these types; it has none for int8 to int32
};

/// The type that NumPy's type number `type` is for us.
DType dtype_of(int type);

/// What the blocks of the small types are multiplied with. Set before any loop runs.
void set_float32_loop(const NumpyLoop& loop);

/// Every loop of the ufunc; `loop` is its `Loop`.
void run_loop(char** args, const npy_intp* dims, const npy_intp* steps, void* loop);

/// (int8, int8) -> int32, in the form that NumPy 2 takes new signatures in.
int run_int8_to_int32(PyArrayMethod_Context* context, char* const* args, const npy_intp* dims,
                      const npy_intp* steps, NpyAuxData* data);

}  // namespace npublas
