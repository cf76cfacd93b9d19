#include "npublas/exec/selftest.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "npublas/base/half.hpp"
#include "npublas/math/layout.hpp"

namespace npublas::exec {
namespace {

// With native A and C and 1024 bytes of depth, four banks of 32 KiB hold 128 rows of A: a run of up
// to 128 rows is one task, and from 132 on it is several.
constexpr int kDeepBytes = 1024;
constexpr std::array<int, 4> kHeights = {1, 4, 128, 132};
constexpr int kColumns = 32;

// Small integers in no simple pattern: exact in both types, and so are all sums of them.
int a_value(int row, int depth) { return (row * 7 + depth * 3 + row * depth) % 15 - 7; }
int b_value(int depth, int column) {
  return (depth * 5 + column * 11 + depth / 7 * column) % 13 - 6;
}

template <typename T>
T encode(int value);
template <>
std::int8_t encode(int value) {
  return std::int8_t(value);
}
template <>
std::uint16_t encode(int value) {
  return float_to_half(float(value));
}

/// Multiplies surfaces that `a` and `b` (functions of an index pair) fill; returns C's surface.
template <typename T, typename A, typename B>
std::vector<double> multiply(const std::shared_ptr<device::Runtime>& runtime, Element element,
                             const device::ContextShape& shape, int core, A a, B b) {
  device::Context context(
      runtime, element == Element::int8 ? device::Type::int8 : device::Type::float16, shape, core);
  device::Memory memory_a(runtime, context.a_bytes());
  device::Memory memory_b(runtime, context.b_bytes());
  device::Memory memory_c(runtime, context.c_bytes());
  T* const to_a = reinterpret_cast<T*>(memory_a.data());
  T* const to_b = reinterpret_cast<T*>(memory_b.data());
  for (int m = 0; m < shape.m; ++m)
    for (int k = 0; k < shape.k; ++k) to_a[layout::a_at(element, m, k, shape.m)] = a(m, k);
  for (int k = 0; k < shape.k; ++k)
    for (int n = 0; n < shape.n; ++n) to_b[layout::b_at(element, k, n, shape.k)] = b(k, n);
  memory_a.to_device(&context);
  memory_b.to_device(&context);
  context.bind(memory_a, memory_b, memory_c);
  context.run();
  memory_c.from_device(&context);
  std::vector<double> result(std::size_t(shape.m) * std::size_t(shape.n));
  for (int m = 0; m < shape.m; ++m) {
    for (int n = 0; n < shape.n; ++n) {
      const std::byte* const at = memory_c.data() + 4 * layout::c_at(m, n, shape.m);
      if (element == Element::int8) {
        std::int32_t value;
        std::memcpy(&value, at, sizeof value);
        result[std::size_t(m * shape.n + n)] = value;
      } else {
        float value;
        std::memcpy(&value, at, sizeof value);
        result[std::size_t(m * shape.n + n)] = value;
      }
    }
  }
  return result;
}

/// The answer for the tallest product; a lower one has its first rows.
std::vector<int> known_answer(int depth) {
  const int rows = kHeights.back();
  std::vector<int> b(std::size_t(depth * kColumns)), sums(std::size_t(rows * kColumns), 0);
  for (int k = 0; k < depth; ++k)
    for (int n = 0; n < kColumns; ++n) b[std::size_t(k * kColumns + n)] = b_value(k, n);
  for (int m = 0; m < rows; ++m) {
    for (int k = 0; k < depth; ++k) {
      const int a = a_value(m, k);
      for (int n = 0; n < kColumns; ++n)
        sums[std::size_t(m * kColumns + n)] += a * b[std::size_t(k * kColumns + n)];
    }
  }
  return sums;
}

template <typename T>
Verdict test(const std::shared_ptr<device::Runtime>& runtime, Element element, int core) {
  constexpr int depth = kDeepBytes / int(sizeof(T));
  static const std::vector<int> expected = known_answer(depth);
  for (const int height : kHeights) {
    const device::ContextShape shape{height, depth, kColumns};
    const auto got = multiply<T>(
        runtime, element, shape, core, [](int m, int k) { return encode<T>(a_value(m, k)); },
        [](int k, int n) { return encode<T>(b_value(k, n)); });
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (got[i] == expected[i]) continue;
      return {.wrong = true,
              .problem = "the known answer to a " + to_string(shape) + " " + name_of(element) +
                         " product on core " + std::to_string(core) + " is " +
                         std::to_string(expected[i]) + " at row " + std::to_string(i / kColumns) +
                         ", column " + std::to_string(i % kColumns) + ", and the NPU says " +
                         std::to_string(got[i]) + ". This runtime can't be trusted with the type."};
    }
  }
  return {.right = true};
}

/// One subnormal, 2^-20, times 2^15: 2^-5 if the device keeps it, 0 if it flushes it.
bool flushes_subnormals(const std::shared_ptr<device::Runtime>& runtime, int core) {
  const auto got = multiply<std::uint16_t>(
      runtime, Element::float16, {4, 32, 32}, core,
      [](int, int k) { return float_to_half(k == 0 ? 0x1p-20f : 0.0f); },
      [](int k, int) { return float_to_half(k == 0 ? 0x1p15f : 0.0f); });
  for (const double value : got)
    if (value != 0x1p-5) return true;
  return false;
}

}  // namespace

Verdict self_test(const std::shared_ptr<device::Runtime>& runtime, Element element, int core) {
  try {
    if (element == Element::int8) return test<std::int8_t>(runtime, element, core);
    Verdict verdict = test<std::uint16_t>(runtime, element, core);
    if (verdict.right) verdict.flushes_subnormals = flushes_subnormals(runtime, core);
    return verdict;
  } catch (const std::exception& error) {
    return {.problem = error.what()};
  }
}

}  // namespace npublas::exec
