#include "npublas/math/check.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

/// A packed surface, as the device sees it.
struct Surface {
  const void* data;
  Element element;
  bool flushes_subnormals;

  double at(std::size_t index) const {
    if (element == Element::int8) return static_cast<const std::int8_t*>(data)[index];
    if (element == Element::int4) {
      const int nibble = static_cast<const std::uint8_t*>(data)[index / 2] >> (index % 2 * 4) & 15;
      return (nibble ^ 8) - 8;
    }
    const std::uint16_t half = static_cast<const std::uint16_t*>(data)[index];
    return flushes_subnormals && (half & 0x7c00u) == 0 ? 0.0 : double(half_to_float(half));
  }
};

}  // namespace

bool product_is_zero(const void* a, const void* b, Element element, std::int64_t rows,
                     std::int64_t depth, std::int64_t columns, bool flushes_subnormals) {
  const Surface left{a, element, flushes_subnormals}, right{b, element, flushes_subnormals};
  // Integer weights keep int8 sums exact in double: 2^7 · 2^7 · 2^20 · depth · columns < 2^53 for
  // every tile that a plan can hold (depth ≤ 8192, columns ≤ 4096 would be 2^59, so 2^14 there).
  const int bits = depth * columns > (std::int64_t(1) << 18) ? 14 : 20;
  std::minstd_rand random(0x5eed);
  std::uniform_int_distribution<int> weight(1, 1 << bits);
  const double roundings = double(depth) / 32 + 2;
  const double tolerance = element != Element::float16 ? 0.0 : std::ldexp(roundings, -24);
  for (int round = 0; round < (bits == 14 ? 3 : 2); ++round) {
    std::vector<double> sums(std::size_t(depth), 0.0), sizes(std::size_t(depth), 0.0);
    for (std::int64_t n = 0; n < columns; ++n) {
      const double x = weight(random);
      for (std::int64_t k = 0; k < depth; ++k) {
        const double value = right.at(layout::b_at(element, k, n, depth)) * x;
        sums[std::size_t(k)] += value;
        sizes[std::size_t(k)] += std::fabs(value);
      }
    }
    for (std::int64_t m = 0; m < rows; ++m) {
      double sum = 0, size = 0;
      for (std::int64_t k = 0; k < depth; ++k) {
        const double value = left.at(layout::a_at(element, m, k, rows));
        sum += value * sums[std::size_t(k)];
        size += std::fabs(value) * sizes[std::size_t(k)];
      }
      if (std::fabs(sum) > tolerance * size) return false;
    }
  }
  return true;
}

}  // namespace npublas
