// # Packing
// From the caller's memory into the NPU's native layouts. A's rows and B's columns are packed by
// the same code: a *lane* is a row of A or a column of B, and each lane has `depth` elements.
//
// Floats are scaled on the way by a power of two per lane, so that the largest magnitude of a lane
// lands in [2^14, 2^15) (float16 sources: [2^15, 2^16)): nothing overflows float16, and all that
// lies within 28 binades of it stays a normal float16. The scale is exact and taken off again when
// the result is unpacked. The source is read once: a few lanes at a time go through a buffer that
// fits the cache, where their maxima are known before they are converted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/dtype.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {

/// The part of an operand that one tile needs.
struct Lanes {
  const void* data;            ///< lane 0, depth 0
  std::ptrdiff_t lane_stride;  ///< bytes, any sign
  std::ptrdiff_t depth_stride;
  DType dtype;  ///< int8, uint8 (as int8, see below), float16, float32, float64
  std::int64_t lanes;
  std::int64_t depth;
};

/// What was seen while packing.
struct Packed {
  bool finite = true;      ///< no NaN, no infinity (float64: also none after rounding to float32)
  bool zero = true;        ///< every element is zero
  bool subnormal = false;  ///< a float16 source element is below 2^-14 after scaling, and not zero
};

/// Packs rows of A into a surface of `surface_rows` × `surface_depth` (both at least as large as
/// the lanes; the rest is filled with zeros). `exponents[lane]` receives the power of two that the
/// lane was multiplied by; it is untouched for int8.
///
/// uint8 is packed as the int8 of the same bits: modulo 256 these are equal, so a product that is
/// truncated to 8 bits comes out right without any correction.
Packed pack_a(const Lanes& source, Element element, std::int64_t surface_rows,
              std::int64_t surface_depth, void* surface, std::int32_t* exponents);

/// Packs columns of B likewise into a surface of `surface_depth` × `surface_columns`.
Packed pack_b(const Lanes& source, Element element, std::int64_t surface_columns,
              std::int64_t surface_depth, void* surface, std::int32_t* exponents);

}  // namespace npublas
