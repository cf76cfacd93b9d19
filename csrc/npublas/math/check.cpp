#include "npublas/math/check.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

/// A packed surface, as the device sees it.
struct Operand {
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

// A group of depth that lies together on a surface: one row's of A, one column's of B.
constexpr std::size_t kWordsOfA = 2;  // 16 bytes
constexpr std::size_t words_of_b(Element element) {
  return bytes_of(element, layout::kBDepth) / sizeof(std::uint64_t);
}

/// All bits that `count` rows of as many words as `bits` have, ORed into it.
void collect(const std::byte* rows, std::int64_t count, std::vector<std::uint64_t>& bits) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::uint64_t& all : bits) {
      std::uint64_t word;
      std::memcpy(&word, rows, sizeof word);
      all |= word;
      rows += sizeof word;
    }
  }
}

/// All bits that `count` neighbouring groups have, ORed into `bits`.
template <std::size_t Words>
void collect(const std::byte* groups, std::int64_t count, std::uint64_t* bits) {
  std::array<std::uint64_t, Words> all, group;
  std::memcpy(all.data(), bits, sizeof all);
  for (std::int64_t i = 0; i < count; ++i, groups += sizeof group) {
    std::memcpy(group.data(), groups, sizeof group);
    for (std::size_t word = 0; word < Words; ++word) all[word] |= group[word];
  }
  std::memcpy(bits, all.data(), sizeof all);
}

template <Element element>
bool meet(const Operand& left, const Operand& right, Layout of_a, std::int64_t rows,
          std::int64_t depth, std::int64_t columns) {
  const std::size_t words = bytes_of(element, std::size_t(depth)) / sizeof(std::uint64_t);
  std::vector<std::uint64_t> a_bits(words, 0), b_bits(words, 0);
  const auto* a = static_cast<const std::byte*>(left.data);
  if (of_a == Layout::normal) {
    collect(a, rows, a_bits);
  } else {
    for (std::size_t word = 0; word < words; word += kWordsOfA) {
      collect<kWordsOfA>(a, rows, &a_bits[word]);
      a += rows * std::int64_t(kWordsOfA * sizeof(std::uint64_t));
    }
  }
  constexpr std::int64_t together = layout::b_columns(element);
  const auto* b = static_cast<const std::byte*>(right.data);
  for (std::int64_t n = 0; n < columns; n += together) {
    for (std::size_t word = 0; word < words; word += words_of_b(element)) {
      collect<words_of_b(element)>(b, together, &b_bits[word]);
      b += together * std::int64_t(words_of_b(element) * sizeof(std::uint64_t));
    }
  }
  // Along the depth, both are now what a single row or column would be on a surface.
  const auto is_zero = [&](const std::vector<std::uint64_t>& bits, std::size_t k) {
    if constexpr (element == Element::float16) {
      std::uint16_t half;
      std::memcpy(&half, reinterpret_cast<const std::byte*>(bits.data()) + 2 * k, sizeof half);
      return (half & (left.flushes_subnormals ? 0x7c00u : 0x7fffu)) == 0;
    } else {
      return Operand{bits.data(), element, false}.at(k) == 0;
    }
  };
  for (std::size_t k = 0; k < std::size_t(depth); ++k)
    if (!is_zero(a_bits, k) && !is_zero(b_bits, k)) return true;
  return false;
}

/// True if for some k both A's column k and B's row k hold anything but zeros; if not, the product
/// is zero. Reads each surface once, in the order in which it lies in memory.
bool meet(const Operand& left, const Operand& right, Layout of_a, std::int64_t rows,
          std::int64_t depth, std::int64_t columns) {
  switch (left.element) {
    case Element::int8:
      return meet<Element::int8>(left, right, of_a, rows, depth, columns);
    case Element::float16:
      return meet<Element::float16>(left, right, of_a, rows, depth, columns);
    case Element::int4:
      return meet<Element::int4>(left, right, of_a, rows, depth, columns);
  }
  return true;
}

}  // namespace

bool product_is_zero(const void* a, const void* b, Element element, Layout of_a, std::int64_t rows,
                     std::int64_t depth, std::int64_t columns, bool flushes_subnormals) {
  const Operand left{a, element, flushes_subnormals}, right{b, element, flushes_subnormals};
  const auto a_at = [&](std::int64_t row, std::int64_t k) {
    return of_a == Layout::native ? layout::a_at(element, row, k, rows)
                                  : std::size_t(row * depth + k);
  };
  if (!meet(left, right, of_a, rows, depth, columns)) return true;

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
        const double value = left.at(a_at(m, k));
        sum += value * sums[std::size_t(k)];
        size += std::fabs(value) * sizes[std::size_t(k)];
      }
      if (std::fabs(sum) > tolerance * size) return false;
    }
  }
  return true;
}

}  // namespace npublas
