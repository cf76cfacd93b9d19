// # Scaling
// The powers of two that bring lanes to the top of float16's range.
#pragma once

#include <algorithm>
#include <cmath>

namespace npublas {

// A lane's largest magnitude is scaled into [2^14, 2^15), so that rounding to float16 can't
// overflow. A float16 lane isn't rounded and goes one binade higher: it is then never scaled down,
// so that no element loses a bit. (Its low parts, if it is split, are what was subnormal.)
inline constexpr int kTarget = 14;
inline constexpr int kTargetOfHalf = 15;

/// What a power of two is multiplied with as: two factors, because 2^163 is no float32. The second
/// is 1 unless the first only scales up.
struct Factors {
  explicit Factors(int exponent)
      : first(std::ldexp(1.0f, std::min(exponent, 127))),
        second(std::ldexp(1.0f, exponent - std::min(exponent, 127))) {}
  float first, second;
};

}  // namespace npublas
