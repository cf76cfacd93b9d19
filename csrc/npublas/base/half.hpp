// # Half precision
// IEEE binary16, and bfloat16, as std::uint16_t. g++ has `_Float16` on x86-64 and `__fp16` on
// aarch64 only in some versions, so the bits are converted here, and nowhere else.
#pragma once

#include <bit>
#include <cstdint>

namespace npublas {

/// All bits if `condition`, none if not. Selecting with masks keeps loops of conversions free of
/// branches, without which g++ 12 doesn't vectorise them: a branch could spare a floating-point
/// operation, which might trap.
constexpr std::uint32_t mask_if(bool condition) { return 0u - std::uint32_t(condition); }

/// The value of a half, exactly.
inline float half_to_float(std::uint16_t half) {
  // Shift exponent and mantissa into float's places; a multiplication by 2^112 moves the exponent
  // bias and makes subnormals normal at once. Infinities and NaN get the largest exponent.
  const std::uint32_t sign = std::uint32_t(half & 0x8000u) << 16;
  const std::uint32_t magnitude = std::uint32_t(half & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = mask_if(magnitude >= 0x0f800000u) & 0x7f800000u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

/// The nearest half, ties to even; overflow gives infinity, NaN stays NaN.
inline std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Normal halves: rebias and round by adding half of the last place, less one if it is even.
  const std::uint32_t rounded =
      (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal halves: adding 0.5 aligns the mantissa so that float's own rounding does the work.
  const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u;
  const std::uint32_t is_small = mask_if(magnitude < 0x38800000u);
  const std::uint32_t is_large = mask_if(magnitude >= 0x477ff000u);  // 65520 rounds to infinity
  const std::uint32_t is_nan = mask_if(magnitude > 0x7f800000u);
  const std::uint32_t finite = (subnormal & is_small) | (rounded & ~is_small);
  return std::uint16_t((finite & ~is_large) | (0x7c00u & is_large) | (0x0200u & is_nan) | sign);
}

/// A float next to the double, of which no bit is lost that a later rounding to fewer bits could
/// need: the double itself, or, of the two floats around it, the one whose last bit is set ("round
/// to odd"; Boldo and Melquiond 2008). So double to float16 by way of float is rounded once.
inline float double_to_odd_float(double value) {
  const std::uint64_t all = std::bit_cast<std::uint64_t>(value);
  const std::uint32_t sign = std::uint32_t(all >> 32) & 0x80000000u;
  const double magnitude = std::bit_cast<double>(all & 0x7fffffffffffffffu);
  const float nearest = static_cast<float>(magnitude);
  const double back = nearest;
  // One less where it was rounded up, and odd where it was rounded at all.
  const std::uint32_t up = std::uint32_t(back > magnitude);
  const std::uint32_t down = std::uint32_t(back < magnitude);
  return std::bit_cast<float>(((std::bit_cast<std::uint32_t>(nearest) - up) | up | down) | sign);
}

/// The value of a bfloat16, which is the upper half of a float.
inline float bfloat16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(std::uint32_t(value) << 16);
}

/// The nearest bfloat16, ties to even; overflow gives infinity, NaN stays NaN.
inline std::uint16_t float_to_bfloat16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t is_nan = mask_if((bits & 0x7fffffffu) > 0x7f800000u);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return std::uint16_t((rounded & ~is_nan) | (((bits >> 16) | 0x40u) & is_nan));
}

}  // namespace npublas
