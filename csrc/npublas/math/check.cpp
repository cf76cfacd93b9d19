#include "npublas/math/check.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

double value_at(const void* surface, Element element, std::size_t index) {
  if (element == Element::int8) return static_cast<const std::int8_t*>(surface)[index];
  return half_to_float(static_cast<const std::uint16_t*>(surface)[index]);
}

}  // namespace

bool product_is_zero(const void* a, const void* b, Element element, std::int64_t rows,
                     std::int64_t depth, std::int64_t columns) {
  // Integer weights keep int8 sums exact in double: 2^7 · 2^7 · 2^20 · depth · columns < 2^53 for
  // every tile that a plan can hold (depth ≤ 8192, columns ≤ 4096 would be 2^59, so 2^14 there).
  const int bits = depth * columns > (std::int64_t(1) << 18) ? 14 : 20;
  std::minstd_rand random(0x5eed);
  std::uniform_int_distribution<int> weight(1, 1 << bits);
  const double tolerance = element == Element::int8 ? 0.0 : std::ldexp(1.0, -40);
  for (int round = 0; round < (bits == 14 ? 3 : 2); ++round) {
    std::vector<double> sums(std::size_t(depth), 0.0), sizes(std::size_t(depth), 0.0);
    for (std::int64_t n = 0; n < columns; ++n) {
      const double x = weight(random);
      for (std::int64_t k = 0; k < depth; ++k) {
        const double value = value_at(b, element, layout::b_at(element, k, n, depth)) * x;
        sums[std::size_t(k)] += value;
        sizes[std::size_t(k)] += std::fabs(value);
      }
    }
    for (std::int64_t m = 0; m < rows; ++m) {
      double sum = 0, size = 0;
      for (std::int64_t k = 0; k < depth; ++k) {
        const double value = value_at(a, element, layout::a_at(element, m, k, rows));
        sum += value * sums[std::size_t(k)];
        size += std::fabs(value) * sizes[std::size_t(k)];
      }
      if (std::fabs(sum) > tolerance * size) return false;
    }
  }
  return true;
}

}  // namespace npublas
