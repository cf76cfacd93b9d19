// # Packing
// From the caller's memory into the NPU's layouts. A's rows and B's columns are packed by
// the same code: a *lane* is a row of A or a column of B, and each lane has `depth` elements. What
// becomes of an element is its coding:
//
//   bytes      int8 as it is; uint8 as the int8 of the same bits, which is right modulo 256
//   shifted    uint8 less 128, for sums that are to be exact; see `sums`
//   half       a float16: the float times a power of two
//   split      two float16, high + low·2^-12 = the float times a power of two
//   quantized  the nearest int8 after division by a scale
//
// The power of two is the lane's own: it brings the largest magnitude of the lane into
// [2^14, 2^15) (float16 sources in `half`: [2^15, 2^16)), so that nothing overflows float16. It is
// exact and taken off again when the result is unpacked. The source is read once: a few lanes at a
// time go through a buffer that fits the cache, where their maxima are known before they are
// converted.
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
  DType dtype;  ///< int8, uint8; float16, bfloat16, float32, float64
  std::int64_t lanes;
  std::int64_t depth;
};

/// Which types a coding takes: `bytes` int8 and uint8, `shifted` uint8, the others any float. Other
/// types are an Error(argument).
enum class Coding : std::uint8_t { bytes, shifted, half, split, quantized };

struct Packing {
  Coding coding;
  int limit = 127;  ///< `quantized`: the largest magnitude of an int8
  float scale = 0;  ///< `quantized`: for all lanes, clamping what is beyond; 0: each lane's own
  /// The CPU is going to read the surface soon, so it is better left in its cache.
  bool reread = false;
};

/// What `split` may lose of the elements of a lane, beyond the roundings that every element has:
/// all of what is left beside the high part, if the low part is zero because it would be subnormal
/// (which a device may take for zero, so that we do it); 2^-10 of the element, if its high part is
/// zero (the low part is all there is of it then, and low·low is never computed). Magnitudes are
/// those after scaling. docs/precision.md has the use of it.
struct LaneLoss {
  float largest = 0;       ///< the largest loss of an element
  float total = 0;         ///< the sum of the losses, rounded up
  float size = 0;          ///< the sum of the magnitudes, rounded up
  float top = 0;           ///< the largest magnitude
  std::int32_t large = 0;  ///< the number of magnitudes of at least `kLarge`
  std::int32_t unused = 0;
};
inline constexpr float kLarge = 0x1p9f;
/// The low part is scaled up as far as it can't overflow.
inline constexpr double kLowScale = 0x1p-12;

/// Where packing leaves what belongs to each lane; arrays of at least `lanes`, null if not wanted.
struct LaneNotes {
  double* scales = nullptr;      ///< packed × scale = source; floats only
  std::int32_t* sums = nullptr;  ///< of the packed bytes; integers only
  LaneLoss* losses = nullptr;    ///< `split` only
};

/// What was seen while packing.
struct Packed {
  bool finite = true;      ///< no NaN, no infinity (float64: also none after rounding to float32)
  bool zero = true;        ///< every packed element is zero (`shifted`: every source element is)
  bool low_zero = true;    ///< `split`: every low part is zero
  bool subnormal = false;  ///< `half` of a float16: an element is below 2^-14 after scaling
};

/// Packs rows of A into a surface of `surface_rows` × `surface_depth` (both at least as large as
/// the lanes; the rest is filled with zeros). `low` is the surface of the low parts, of the same
/// size, for `split` only.
Packed pack_a(const Lanes& source, const Packing& packing, Layout layout, std::int64_t surface_rows,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes);

/// Packs columns of B likewise into a surface of `surface_depth` × `surface_columns`.
Packed pack_b(const Lanes& source, const Packing& packing, std::int64_t surface_columns,
              std::int64_t surface_depth, void* surface, void* low, const LaneNotes& notes);

}  // namespace npublas
