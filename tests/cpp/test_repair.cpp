// Repairs: double sums of the elements that are named, whatever the strides and the company.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "npublas/base/half.hpp"
#include "npublas/math/repair.hpp"

namespace npublas {
namespace {

using Elements = std::vector<std::pair<std::int64_t, std::int64_t>>;

/// Operands of small integers, whose sums are exact in any order, or of anything.
struct Operands {
  std::int64_t m, k, n;
  std::vector<float> a, b;

  Operands(std::int64_t rows, std::int64_t depth, std::int64_t columns, bool whole)
      : m(rows), k(depth), n(columns), a(std::size_t(m * k)), b(std::size_t(k * n)) {
    std::minstd_rand random(7);
    std::uniform_real_distribution<float> value(-9, 9);
    for (auto* operand : {&a, &b})
      for (float& x : *operand) x = whole ? std::round(value(random)) : value(random);
  }
  Lanes rows() const { return {a.data(), std::ptrdiff_t(k * 4), 4, DType::float32, m, k}; }
  Lanes columns() const { return {b.data(), 4, std::ptrdiff_t(n * 4), DType::float32, n, k}; }
  double exact(std::int64_t row, std::int64_t column) const {
    double sum = 0;
    for (std::int64_t d = 0; d < k; ++d)
      sum += double(a[std::size_t(row * k + d)]) * double(b[std::size_t(d * n + column)]);
    return sum;
  }
};

std::vector<double> repaired(const Lanes& a, const Lanes& b, const Elements& elements,
                             int* steps = nullptr, bool* finite = nullptr) {
  std::vector<double> sums(std::size_t(a.lanes * b.lanes), -0.5);  // no sum of integers
  const Target target{sums.data(), std::ptrdiff_t(b.lanes * 8), 8, DType::float64, a.lanes,
                      b.lanes};
  Repair repair(a, b, elements);
  int count = 1;
  while (repair.step(target)) ++count;
  if (steps) *steps = count;
  if (finite) *finite = repair.finite();
  return sums;
}

Elements scattered(std::int64_t m, std::int64_t n, int one_of) {
  std::minstd_rand random(11);
  Elements elements;
  for (std::int64_t row = 0; row < m; ++row)
    for (std::int64_t column = 0; column < n; ++column)
      if (random() % unsigned(one_of) == 0) elements.emplace_back(row, column);
  return elements;
}

Elements all_of(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
  Elements elements;
  for (std::int64_t i = row; i < row + rows; ++i)
    for (std::int64_t j = column; j < column + columns; ++j) elements.emplace_back(i, j);
  return elements;
}

}  // namespace

TEST_CASE("repairs store the sums of the elements that are named, and nothing else") {
  for (const std::int64_t k : {1, 7, 8, 9, 1023, 1024, 1025, 2050}) {
    const Operands operands(70, k, 81, true);
    for (const Elements& elements :
         {Elements{}, Elements{{69, 80}}, Elements{{3, 0}, {3, 80}, {0, 5}}, scattered(70, 81, 32),
          all_of(2, 3, 0, 81), all_of(0, 70, 79, 2), all_of(0, 70, 0, 81)}) {
      std::vector<double> expected(70 * 81, -0.5);
      for (const auto& [row, column] : elements)
        expected[std::size_t(row * 81 + column)] = operands.exact(row, column);
      CHECK(repaired(operands.rows(), operands.columns(), elements) == expected);
    }
  }
}

TEST_CASE("the sum of an element depends on no other element that is repaired") {
  const Operands operands(70, 3000, 150, false);
  const auto together = repaired(operands.rows(), operands.columns(), all_of(0, 70, 0, 150));
  for (const Elements& elements :
       {Elements{{69, 149}}, all_of(1, 2, 0, 150), all_of(0, 70, 149, 1), scattered(70, 150, 20)}) {
    const auto apart = repaired(operands.rows(), operands.columns(), elements);
    for (const auto& [row, column] : elements) {
      const auto at = std::size_t(row * 150 + column);
      CHECK(apart[at] == together[at]);
      CHECK(std::fabs(apart[at] - operands.exact(row, column)) < 1e-9);
    }
  }
}

TEST_CASE("much to repair takes several steps") {
  const Operands operands(64, 4096, 64, true);
  int steps = 0;
  repaired(operands.rows(), operands.columns(), all_of(0, 1, 0, 1), &steps);
  CHECK(steps == 1);
  repaired(operands.rows(), operands.columns(), all_of(0, 64, 0, 64), &steps);
  CHECK(steps >= 4);
}

TEST_CASE("repairs read every float type, in any strides") {
  const Operands operands(5, 40, 6, true);
  const Elements elements = all_of(0, 5, 0, 6);
  const auto expected = repaired(operands.rows(), operands.columns(), elements);
  std::vector<std::uint16_t> halves, bfloats;
  std::vector<double> doubles;  // backwards, and a little off: they count as rounded to float32
  for (const float x : operands.a) {
    halves.push_back(float_to_half(x));
    bfloats.push_back(float_to_bfloat16(x));
    doubles.insert(doubles.begin(), x * (1 + 0x1p-40));
  }
  const Lanes columns = operands.columns();
  CHECK(repaired({halves.data(), 80, 2, DType::float16, 5, 40}, columns, elements) == expected);
  CHECK(repaired({bfloats.data(), 80, 2, DType::bfloat16, 5, 40}, columns, elements) == expected);
  CHECK(repaired({&doubles.back(), -320, -8, DType::float64, 5, 40}, columns, elements) ==
        expected);
}

TEST_CASE("repairs round to float32 once, and tell of what is beyond it") {
  const std::vector<float> a = {1e30f, 1.0f, -1e30f}, b = {1e8f, 0x1p-30f, 1e8f};
  const Lanes row{a.data(), 12, 4, DType::float32, 1, 3},
      column{b.data(), 12, 4, DType::float32, 1, 3};
  float sum = 0;
  const Target target{&sum, 4, 4, DType::float32, 1, 1};
  Repair repair(row, column, {{0, 0}});
  CHECK_FALSE(repair.step(target));
  CHECK(repair.finite());
  CHECK(sum == 0x1p-30f);  // the large ones cancel in double

  const std::vector<float> large = {1e30f, 1e30f, 1e30f};
  bool finite = true;
  repaired(row, {large.data(), 12, 4, DType::float32, 1, 3}, {{0, 0}}, nullptr, &finite);
  CHECK(finite);
  repaired({large.data(), 12, 4, DType::float32, 1, 3}, {large.data(), 12, 4, DType::float32, 1, 3},
           {{0, 0}}, nullptr, &finite);
  CHECK_FALSE(finite);
}

}  // namespace npublas
