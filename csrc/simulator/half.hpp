// # Half precision
// IEEE binary16 as its bits, in both directions. The simulator shares only the vendor's interface
// with the core, so it has its own reading of this too.
#pragma once

#include <bit>
#include <cstdint>

namespace npublas::simulator {

/// The value, exactly.
inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16;
  const std::uint32_t exponent = (half >> 10) & 31;
  const std::uint32_t fraction = half & 0x3ff;
  // A subnormal is its fraction times 2^-24; anything else has its fraction and exponent moved.
  const float subnormal = float(std::int32_t(fraction)) * 0x1p-24f;
  const std::uint32_t moved = (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | fraction << 13;
  const std::uint32_t magnitude = exponent == 0 ? std::bit_cast<std::uint32_t>(subnormal) : moved;
  return std::bit_cast<float>(magnitude | sign);
}

/// The nearest half, ties to even; beyond the range infinity.
inline std::uint16_t to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint16_t sign = std::uint16_t((bits >> 16) & 0x8000);
  const std::int32_t exponent = std::int32_t((bits >> 23) & 255) - 127;
  if (exponent == 128) return std::uint16_t(sign | 0x7c00 | ((bits & 0x7fffff) ? 0x200 : 0));
  if (exponent > 15) return std::uint16_t(sign | 0x7c00);
  if (exponent < -25) return sign;
  const std::uint32_t significand = (bits & 0x7fffff) | 0x800000;
  // Bits that fall off the end: 13, and one more per binade below the normal halves.
  const int drop = exponent >= -14 ? 13 : -1 - exponent;
  const std::uint32_t kept = significand >> drop;
  const std::uint32_t rest = significand & ((1u << drop) - 1);
  const std::uint32_t tie = 1u << (drop - 1);
  const std::uint32_t rounded = kept + (rest > tie || (rest == tie && (kept & 1)) ? 1 : 0);
  // `kept` has its leading one at bit 10 in a normal half, so one less goes into the exponent; a
  // carry out of the fraction moves into the exponent by itself, up to infinity.
  const std::uint32_t biased = exponent >= -14 ? std::uint32_t(exponent + 14) << 10 : 0;
  return std::uint16_t(sign | (biased + rounded));
}

}  // namespace npublas::simulator
