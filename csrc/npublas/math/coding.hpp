// # Coding
// What becomes of the floats of one lane; pack.hpp has the formulas. This is what the packers of
// all instruction sets are held to (packers.hpp). The loops are free of branches and of calls, so
// that g++ 12 vectorises them for every x86-64 and aarch64.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/math/pack.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {

/// The largest magnitude of `width` floats, as bits: these order as magnitudes do, with infinity
/// and then NaN on top.
std::uint32_t largest_magnitude(const float* values, std::int64_t width);

/// The power of two that brings a finite magnitude (as bits) to [2^target, 2^(target + 1)); 0 for
/// zero, infinity and NaN.
int exponent_for(std::uint32_t magnitude, int target);

/// Multiplies by first and then by second.
void scale_lane(float* values, std::int64_t width, float first, float second);

/// How many of `size` floats, `stride` bytes apart and not aligned, aren't zero, and are below the
/// normal floats once they are multiplied by 2^exponent: scaling rounds them, or makes zeros of
/// them.
std::int64_t count_vanishing(const std::byte* from, std::int64_t stride, std::int64_t size,
                             int exponent);
/// What `split` loses by so many of them, before it sees them.
void add_vanishing(std::int64_t vanishing, LaneLoss& loss);

/// The power of two that brings a float16 lane to the top of float16's range; 0 if it has only
/// zeros, or NaN or infinity.
int exponent_for(const HalfRange& range);
/// Whether an element is a subnormal float16 after that.
bool has_subnormal(const HalfRange& range, int exponent);

/// Rounds to float16.
void halve_lane(const float* values, std::int64_t width, std::uint16_t* halves);

/// high = half(x), low = half((x - high)·2^12), where `half` rounds to 11 significant bits, ties to
/// even, and gives 0 instead of what is below 2^-14 then. All |x| < 2^15, `width` a multiple of 16.
/// `losses` is scratch.
void split_lane(const float* values, std::int64_t width, std::uint16_t* high, std::uint16_t* low,
                float* losses, SplitNote& note);

/// The sum of the 16 sums that a lane is noted in, rounded up. They err by width/16 roundings of
/// 2^-24 at most: for a tile, far below what is added.
float round_up_sum(const float* parts);

/// The scale with which `quantize_lane` brings magnitudes up to `largest` (as bits) to ±limit:
/// their quotient in float32, but never 0; 1 for zero, infinity and NaN.
float scale_for(std::uint32_t largest, int limit);

/// The nearest int8 of x / scale, ties to even, clamped to ±limit; not for NaN.
void quantize_lane(const float* values, std::int64_t width, float scale, int limit,
                   std::int8_t* quantized);

}  // namespace npublas
