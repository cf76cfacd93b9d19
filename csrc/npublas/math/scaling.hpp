// # Scaling
// The powers of two that bring lanes to the top of float16's range.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace npublas {

// A lane's largest magnitude is scaled into [2^14, 2^15), so that rounding to float16 can't
// overflow. A float16 lane isn't rounded and goes one binade higher: it is then never scaled down,
// so that no element loses a bit. (Its low parts, if it is split, are what was subnormal.)
inline constexpr int kTarget = 14;
inline constexpr int kTargetOfHalf = 15;

/// 2^exponent, a normal number. (std::ldexp is a call, for each lane.)
constexpr float power_of_two(int exponent) {
  return std::bit_cast<float>(std::uint32_t(exponent + 127) << 23);
}

/// What a power of two is multiplied with as: two factors, because 2^163 is no float32. The second
/// is 1 unless the first only scales up.
struct Factors {
  explicit Factors(int exponent)
      : first(power_of_two(std::min(exponent, 127))),
        second(power_of_two(exponent - std::min(exponent, 127))) {}
  double inverse() const { return 1.0 / (double(first) * double(second)); }
  float first, second;
};

}  // namespace npublas
