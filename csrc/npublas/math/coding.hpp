// # Coding
// What becomes of the floats of one lane; pack.hpp has the formulas. The loops are free of branches
// and of calls, so that g++ 12 vectorises them for every x86-64 and aarch64.
#pragma once

#include <cstdint>

#include "npublas/math/pack.hpp"

namespace npublas {

/// The largest magnitude of `width` floats, as bits: these order as magnitudes do, with infinity
/// and then NaN on top.
std::uint32_t largest_magnitude(const float* values, std::int64_t width);

/// The power of two that brings a finite magnitude (as bits) to [2^target, 2^(target + 1)); 0 for
/// zero, infinity and NaN.
int exponent_for(std::uint32_t magnitude, int target);

/// Multiplies by 2^exponent, which rounds only where the product is a subnormal float32.
void scale_lane(float* values, std::int64_t width, int exponent);

/// How many magnitudes aren't zero, and below the normal floats once they are multiplied by
/// 2^exponent: `scale_lane` rounds them, or makes zeros of them.
std::int64_t count_vanishing(const float* values, std::int64_t width, int exponent);

/// Rounds to float16. True if an element is subnormal then.
bool halve_lane(const float* values, std::int64_t width, std::uint16_t* halves);

/// high = half(x), low = half((x - high)·2^12), where `half` rounds to 11 significant bits, ties to
/// even, and gives 0 instead of what is below 2^-14 then. All |x| < 2^15, `width` a multiple of 16.
/// `top` of the result is left to the caller; `losses` may be changed to anything. True if a low
/// part is not zero.
bool split_lane(const float* values, std::int64_t width, std::uint16_t* high, std::uint16_t* low,
                float* losses, LaneLoss& loss);

/// The scale with which `quantize_lane` brings magnitudes up to `largest` (as bits) to ±limit:
/// their quotient in float32, but never 0; 1 for zero, infinity and NaN.
float scale_for(std::uint32_t largest, int limit);

/// The nearest int8 of x / scale, ties to even, clamped to ±limit; not for NaN.
void quantize_lane(const float* values, std::int64_t width, float scale, int limit,
                   std::int8_t* quantized);

}  // namespace npublas
