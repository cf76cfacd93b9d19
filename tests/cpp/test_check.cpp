// Checking zeros: right ones are believed, others aren't, wherever on the surfaces they come from.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "npublas/base/half.hpp"
#include "npublas/math/check.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kRows = 8, kDepth = 96, kColumns = 128;

constexpr std::pair<Element, Layout> kOperands[] = {
    {Element::int8, Layout::native},    {Element::int8, Layout::normal},
    {Element::float16, Layout::native}, {Element::float16, Layout::normal},
    {Element::int4, Layout::native},
};

/// Surfaces of zeros, in which single elements are set.
struct Surfaces {
  Element element;
  Layout of_a;
  std::vector<std::uint8_t> a, b;

  explicit Surfaces(Element of, Layout layout = Layout::native)
      : element(of),
        of_a(layout),
        a(bytes_of(of, kRows * kDepth), 0),
        b(bytes_of(of, kDepth * kColumns), 0) {}

  void set_a(std::int64_t row, std::int64_t k, int value) { set(a, a_at(row, k), value); }
  std::size_t a_at(std::int64_t row, std::int64_t k) const {
    return of_a == Layout::native ? layout::a_at(element, row, k, kRows)
                                  : std::size_t(row * kDepth + k);
  }
  void set_b(std::int64_t k, std::int64_t column, int value) {
    set(b, layout::b_at(element, k, column, kDepth), value);
  }
  void set(std::vector<std::uint8_t>& to, std::size_t at, int value) const {
    if (element == Element::int8) {
      to[at] = std::uint8_t(value);
    } else if (element == Element::int4) {
      const int shift = at % 2 * 4;
      to[at / 2] = std::uint8_t((to[at / 2] & ~(15 << shift)) | (value & 15) << shift);
    } else {
      const std::uint16_t half = float_to_half(float(value));
      std::memcpy(&to[2 * at], &half, sizeof half);
    }
  }
  bool is_zero(bool flushes = false) const {
    return product_is_zero(a.data(), b.data(), element, of_a, kRows, kDepth, kColumns, flushes);
  }
};

}  // namespace

TEST_CASE("zeros are believed where nothing meets, and only there, wherever it is") {
  for (const auto& [element, of_a] : kOperands) {
    for (std::int64_t k = 0; k < kDepth; ++k) {
      for (const auto& [row, column] : {std::pair{0, 0}, {kRows - 1, kColumns - 1}, {3, 65}}) {
        Surfaces surfaces(element, of_a);
        surfaces.set_a(row, k, -1);
        CHECK(surfaces.is_zero());
        for (std::int64_t other = 0; other < kDepth; ++other)
          if (other != k) surfaces.set_b(other, column, 1);
        CHECK(surfaces.is_zero());
        surfaces.set_b(k, column, 1);
        CHECK_FALSE(surfaces.is_zero());
      }
    }
  }
}

TEST_CASE("zeros are believed where what meets cancels") {
  for (const auto& [element, of_a] : kOperands) {
    Surfaces surfaces(element, of_a);
    for (const std::int64_t k : {5, 70}) surfaces.set_a(2, k, 3);
    surfaces.set_b(5, 9, 4);
    surfaces.set_b(70, 9, -4);
    CHECK(surfaces.is_zero());
    surfaces.set_b(70, 9, -5);
    CHECK_FALSE(surfaces.is_zero());
  }
}

TEST_CASE("a float16 of minus zero is zero, and a subnormal where the device says so") {
  Surfaces surfaces(Element::float16);
  surfaces.set_b(40, 17, 1);
  const auto put = [&](std::uint16_t half) {
    std::memcpy(&surfaces.a[2 * layout::a_at(Element::float16, 1, 40, kRows)], &half, sizeof half);
  };
  put(0x8000);
  CHECK(surfaces.is_zero());
  put(0x83ff);
  CHECK_FALSE(surfaces.is_zero(false));
  CHECK(surfaces.is_zero(true));
  put(0x0400);
  CHECK_FALSE(surfaces.is_zero(true));
}

}  // namespace npublas
