// # int4
// The NPU multiplies int4 by int4 into int16: twice as fast as int8, with weights of half the
// bytes, and with sums that overflow soon. Four things follow:
//
// **Two to a byte.** The element of the even index lies in the lower half, in A and in B. Runtimes
// before 2.0 take the upper half for it; but the two neighbours are neighbours along K in both
// matrices, so that such a runtime swaps the same pairs of K in both, and sums are what they were.
//
// **Shallow tiles.** What the hardware does with a sum beyond int16 is unknown, so that none may
// leave it: `certified_depth`.
//
// **Two parts.** A number of -136..119 is 16·high + low, both in -8..7, and its products are
// 16·(high · b) + (low · b), exactly. The two parts are sets of rows of one A: low, then high, so
// that one run reads B once for both. 120 is 16·7 + 8, which has no such parts.
//
// **int8 as well.** Unpacked to bytes, the same weights multiply int8 by int8 in the same K tiles,
// to the same sums.
//
// All surfaces are made from, and back into, those of int8 and int32, which pack.hpp and unpack.hpp
// fill and read.
#pragma once

#include <cstdint>

#include "npublas/base/dtype.hpp"
#include "npublas/math/layout.hpp"

namespace npublas {

/// The magnitudes that an int4 may have; quantised weights are symmetric, -7..7.
inline constexpr int kInt4Max = 8;
inline constexpr int kInt4WeightMax = 7;
/// The largest magnitude up to which every number has two parts.
inline constexpr int kTwoPartsMax = 119;

/// Of how many parts A is, with magnitudes up to `limit` (floats are quantised so, symmetrically;
/// int8 promise them, -8 included); 0 if there is no such number: int8 up to 127.
constexpr int int4_parts(DType a, int limit) {
  if (limit <= (is_float(a) ? kInt4WeightMax : kInt4Max)) return 1;
  return is_float(a) || limit <= kTwoPartsMax ? 2 : 0;
}

/// The deepest K tile (a multiple of 32) whose sums fit int16, on every way to them, for magnitudes
/// up to these: max_a · max_b · depth <= 32767. 480 for 8 and 8, 576 for 8 and 7, 640 for 7 and 7.
constexpr std::int64_t certified_depth(int max_a, int max_b) {
  return std::int64_t(INT16_MAX / (max_a * max_b)) / kDepthStep * kDepthStep;
}

/// A's int8 surface, `rows` × `depth`, as int4 of `surface_rows` rows (at least parts · rows): one
/// part, or two. False if an element can't be written so; the surface is nothing then.
bool nibbles_of_a(const std::int8_t* bytes, std::int64_t rows, std::int64_t depth, int parts,
                  std::int64_t surface_rows, std::uint8_t* nibbles);

/// B's int8 surface, `depth` × `columns` (a multiple of 64), as int4. Returns the largest
/// magnitude; if an element isn't in -8..7, that is beyond 8, and the surface is nothing.
int nibbles_of_b(const std::int8_t* bytes, std::int64_t depth, std::int64_t columns,
                 std::uint8_t* nibbles);
/// And back.
void bytes_of_b(const std::uint8_t* nibbles, std::int64_t depth, std::int64_t columns,
                std::int8_t* bytes);
/// The largest magnitude of a surface of B.
int largest_nibble(const std::uint8_t* nibbles, std::int64_t depth, std::int64_t columns);

/// C's int16 surface of `surface_rows` rows and `columns` (a multiple of 8) as int32 of `rows`
/// rows: of two parts, low + 16·high. False if all that was read is zero.
bool sums_of_parts(const std::int16_t* surface, std::int64_t surface_rows, int parts,
                   std::int64_t rows, std::int64_t columns, std::int32_t* sums);

}  // namespace npublas
