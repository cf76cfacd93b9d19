// # Unpacking
// From the NPU's C surface into the caller's memory, in any strides: the scales that packing put on
// are taken off, partial sums over K are added in the order of the calls, and the sum is converted
// to the type of the target, all in one pass.
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
  DType dtype;
  std::int64_t rows;
  std::int64_t columns;
  /// Of the whole result, if what is stored here is final; 0: it is added to soon, or not known.
  /// Large results are written past the caches, which only costs time where they are read soon.
  std::size_t whole_bytes = 0;
};

/// C as the NPU leaves it: at least as large as the target, and its upper left is the target's.
/// Native: layout::c_at. Normal: row-major, `columns` wide.
struct Surface {
  std::int64_t rows, columns;
  Layout layout;
};

/// The float32 method's sums; the low ones may be null.
struct FloatSums {
  const float* main;   ///< high parts of A · high parts of B
  const float* a_low;  ///< low parts of A · high parts of B
  const float* b_low;  ///< high parts of A · low parts of B
};

/// What was seen while unpacking.
struct Unpacked {
  bool finite = true;      ///< no sum is NaN or infinite (integers: always true)
  bool underflow = false;  ///< a float sum lost bits because it is subnormal, or became zero
  bool main_zero = true;   ///< every element of the surface that was read is zero
  bool a_low_zero = true;  ///< the same of the others, if there are any
  bool b_low_zero = true;
};

/// Adds (`accumulate`) or stores the int32 sums, plus `row_offsets[row] + column_offsets[column]`
/// (either may be null), modulo the range of the target's type, as NumPy's loops do: int8, uint8,
/// int16 or int32.
Unpacked unpack_integers(const std::int32_t* sums, const Surface& surface,
                         const std::int32_t* row_offsets, const std::int32_t* column_offsets,
                         bool accumulate, const Target& target);

/// The same into a target of float32 or float64:
///
///   (main + (a_low + b_low) · kLowScale) · (row_scales[row] · column_scales[column])
///
/// computed in double, rounded once, to the target's type.
Unpacked unpack_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, bool accumulate, const Target& target);
/// The same of int32 sums, which have no low parts.
Unpacked unpack_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, bool accumulate,
                          const Target& target);

}  // namespace npublas
