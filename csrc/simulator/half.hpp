// # Half precision
// IEEE binary16 as its bits, in both directions. The simulator shares only the vendor's interface
// with the core, so it has its own reading of this too.
#pragma once

#include <bit>
#include <cstdint>

namespace npublas::simulator {

/// The value, exactly. Only adds and masks, so that a loop over it becomes vector code; no step has
/// a subnormal float in it, so that it doesn't matter how the program has set up its processor.
inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16;
  const std::uint32_t moved = std::uint32_t(half & 0x7fff) << 13;  // fraction and exponent in place
  const std::uint32_t special = 0u - std::uint32_t(moved >= 31u << 23);  // all ones: inf or NaN
  const std::uint32_t small = 0u - std::uint32_t(moved < 1u << 23);      // subnormal or zero
  // Rebias. A small one gets the leading one of 2^-14, which is then taken away again.
  const std::uint32_t rebiased =
      moved + (112u << 23) + (special & (112u << 23)) + (small & (1u << 23));
  const float value = std::bit_cast<float>(rebiased) - std::bit_cast<float>(small & (113u << 23));
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
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
