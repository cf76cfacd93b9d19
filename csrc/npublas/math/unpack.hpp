// # Unpacking
// From the NPU's native C surface into the caller's memory, in any strides: the scales that packing
// put on are taken off, partial sums over K are added in the order of the calls, and the sum is
// converted to the caller's type, all in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/dtype.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {

/// A part of the caller's result.
struct Target {
  void* data;                 ///< row 0, column 0
  std::ptrdiff_t row_stride;  ///< bytes, any sign
  std::ptrdiff_t column_stride;
  DType dtype;  ///< int8, uint8, int32 (from int8 products); float32, float64 (from float16 ones)
  std::int64_t rows;
  std::int64_t columns;
};

/// What was seen while unpacking.
struct Unpacked {
  bool finite = true;      ///< no sum is NaN or infinite (integers: always true)
  bool underflow = false;  ///< a float32 sum lost bits because it is subnormal, or became zero
  bool zero = true;        ///< every element of the surface that was read is zero
};

/// Adds (`accumulate`) or stores the surface of `surface_rows` rows. Integers are added modulo 2^8
/// or 2^32, as NumPy's loops do. Floats are multiplied by 2^-(row + column exponent) in double,
/// which can't overflow there, and rounded once to the target's type before they are added in it.
Unpacked unpack(const void* surface, Element element, std::int64_t surface_rows,
                const std::int32_t* row_exponents, const std::int32_t* column_exponents,
                bool accumulate, const Target& target);

/// What rounding to float16 did, as NumPy's flags tell it.
struct Rounded {
  bool overflow = false;   ///< a finite sum became infinite
  bool underflow = false;  ///< a sum below the normal halves is not exactly representable
};

/// Rounds a float32 matrix (row-major, `columns` wide) into a float16 target, once.
Rounded round_to_half(const float* sums, std::int64_t rows, std::int64_t columns, void* data,
                      std::ptrdiff_t row_stride, std::ptrdiff_t column_stride);

}  // namespace npublas
