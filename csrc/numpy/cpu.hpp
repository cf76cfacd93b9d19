// # Small types on the CPU
// NumPy multiplies int8, uint8 and float16 in plain loops, 60 to 190 times slower than float32, for
// which it has a BLAS. So these products go through NumPy's own float32 loop, block by block:
//
//   for rows, columns in blocks of C:
//     for depth in steps of 1024:       never more: 1024 * 128 * 128 = 2^24, the last integer up to
//       convert A and B to float32      which float32 counts without a gap
//       multiply                        NumPy's float32 loop, with the BLAS that it found
//       add to the sums                 int32, wrapping; float32 for float16
//     convert to C's type               int8 wraps as NumPy's does; float16 is rounded once
//
// Integer results are exact, in whatever order the BLAS adds. float16 differs from NumPy's loop,
// which adds in float32 one after the other, by the order of the additions alone.
#pragma once

#include "npublas/engine/product.hpp"
#include "numpy_api.hpp"

namespace npublas {

/// One of NumPy's own loops, with the data that it wants to be called with.
struct NumpyLoop {
  PyUFuncGenericFunction function = nullptr;
  void* data = nullptr;

  void operator()(char** args, const npy_intp* dims, const npy_intp* steps) const {
    function(args, dims, steps, data);
  }
};

/// True if blocks of float32 are faster than NumPy's loop for `in`, and can be used at all.
bool worth_blocks(DType in, const Shape& shape);

/// C = A·B for int8 (to int8 or int32), uint8 and float16. Leaves the floating-point flags that
/// NumPy's loop would. Needs at most 6 MiB; returns false, with C undefined, if it can't get them.
bool multiply_in_blocks(const Product& product, const NumpyLoop& float32);

}  // namespace npublas
