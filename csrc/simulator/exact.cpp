#include "exact.hpp"

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels.hpp"

namespace npublas::simulator {
namespace {

__extension__ using Wide = __int128;
__extension__ using UnsignedWide = unsigned __int128;

int width_of(UnsignedWide value) {
  const auto high = std::uint64_t(value >> 64);
  return high ? 64 + std::bit_width(high) : std::bit_width(std::uint64_t(value));
}

/// value * 2^-48, rounded once to the nearest float, ties to even.
float round_once(Wide value) {
  const bool negative = value < 0;
  UnsignedWide magnitude = negative ? -UnsignedWide(value) : UnsignedWide(value);
  int scale = -48;
  // Keep 32 bits and let the last of them say whether anything was lost below: the conversion from
  // an integer to float then rounds as if it saw everything.
  if (const int surplus = width_of(magnitude) - 32; surplus > 0) {
    const bool lost = (magnitude & ((UnsignedWide(1) << surplus) - 1)) != 0;
    magnitude = (magnitude >> surplus) | UnsignedWide(lost);
    scale += surplus;
  }
  const float rounded = std::ldexp(float(std::uint32_t(magnitude)), scale);
  return negative ? -rounded : rounded;
}

}  // namespace

float exact_group(const double* a, int a_stride, const double* b, int b_stride) {
  Wide sum = 0;
  double plain = 0;
  bool finite = true;
  for (int i = 0; i < kGroup; ++i) {
    const double x = a[i * a_stride];
    const double y = b[i * b_stride];
    plain += x * y;
    finite = finite && std::isfinite(x) && std::isfinite(y);
    if (finite) sum += Wide(std::int64_t(x * 0x1p24)) * std::int64_t(y * 0x1p24);
  }
  return finite ? round_once(sum) : float(plain);
}

}  // namespace npublas::simulator
