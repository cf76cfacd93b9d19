// # Small types on the CPU
// NumPy multiplies int8, uint8 and float16 in plain loops, 60 to 190 times slower than float32, for
// which it has a BLAS; and mixed int8 and uint8 to int32, and bfloat16, it has no loop for at all.
// So these products go through NumPy's own float32 loop, block by block:
//
//   for rows, columns in blocks of C:
//     for depth in steps:               so deep that float32, which counts up to 2^24 without a
//       convert A and B to float32      gap, is exact: 1024 · 128 · 128 = 2^24 for int8,
//       multiply                        512 · 255 · 128 for mixed, 256 · 255 · 255 for uint8
//       add to the sums                 int32, wrapping; float32 for float16 and bfloat16
//     convert to C's type               integers wrap as NumPy's do; floats are rounded once
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

/// The types of a product, and NumPy's own loop for them if it has one.
struct Loop {
  DType a, b, out;
  NumpyLoop numpy = {};
};

/// True if blocks of float32 can be used, and are faster than a plain loop: where NumPy's own is
/// slower than the conversions and a call of the float32 loop for each block. It needs 0.5 ns for a
/// multiplication in int8, 3 ns in float16 (x86-64). A short depth or few results use each
/// converted value too seldom. Inline, because it is asked on every call.
inline bool worth_blocks(const Loop& loop, const Shape& shape) {
  const bool is_float = loop.a == DType::float16 || loop.a == DType::bfloat16;
  if (!is_float && loop.a != DType::int8 && loop.a != DType::uint8) return false;
  const double work = double(shape.m) * double(shape.k) * double(shape.n);
  if (is_float) return work >= 512;
  return work >= 4096 && shape.k >= 8 && shape.m * shape.n >= 8;
}

/// C = A·B for int8 and uint8 (to themselves, int16 or int32), float16 and bfloat16. Leaves the
/// floating-point flags that NumPy's loop would. Needs at most 6 MiB; returns false, with C
/// undefined, if it can't get them.
bool multiply_in_blocks(const Product& product, const NumpyLoop& float32);

/// The same, element by element: the specification, and the way for what is too small for blocks.
void multiply_plainly(const Product& product);

}  // namespace npublas
