#include "npublas/exec/selftest.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/base/half.hpp"
#include "npublas/math/int4.hpp"
#include "npublas/math/layout.hpp"

namespace npublas::exec {
namespace {

// With native A and C and 1024 bytes of depth, four banks of 32 KiB hold 128 rows of A: a run of up
// to 128 rows is one task, and from 132 on it is several.
constexpr int kDeepBytes = 1024;
constexpr std::array<int, 4> kHeights = {1, 4, 128, 132};
// Row-major ones are cut otherwise: ten banks hold 320 rows, and heights need be no multiple of 4.
constexpr std::array<int, 2> kRowMajorHeights = {3, 324};
constexpr int kTallest = 324;
/// Of int4, what fits one task at 132 rows, which is all that it may have.
constexpr int depth_of(Element element) {
  return element == Element::int4 ? 512 : kDeepBytes / int(bytes_of(element, 1));
}

// Small integers in no simple pattern: exact in all types, and so are all sums of them.
int a_value(int row, int depth) { return (row * 7 + depth * 3 + row * depth) % 15 - 7; }
int b_value(int depth, int column) {
  return (depth * 5 + column * 11 + depth / 7 * column) % 13 - 6;
}

/// Writes an element of a surface of A or B that was cleared before.
void put(Element element, std::byte* surface, std::size_t index, float value) {
  if (element == Element::int4) {
    surface[index / 2] |= std::byte((int(value) & 15) << (index % 2 * 4));
  } else if (element == Element::int8) {
    surface[index] = std::byte(std::int8_t(value));
  } else {
    const std::uint16_t half = float_to_half(value);
    std::memcpy(surface + index * sizeof half, &half, sizeof half);
  }
}

template <typename T>
double read(const std::byte* surface, std::size_t index) {
  T value;
  std::memcpy(&value, surface + index * sizeof value, sizeof value);
  return value;
}

/// An element of a surface of C.
double get(Element element, const std::byte* surface, std::size_t index) {
  if (element == Element::int4) return read<std::int16_t>(surface, index);
  if (element == Element::int8) return read<std::int32_t>(surface, index);
  return read<float>(surface, index);
}

device::Type type_of(Element element) {
  if (element == Element::int4) return device::Type::int4;
  return element == Element::int8 ? device::Type::int8 : device::Type::float16;
}

/// Multiplies surfaces that `a` and `b` (functions of an index pair) fill; returns C.
template <typename A, typename B>
std::vector<double> multiply(const std::shared_ptr<device::Runtime>& runtime, Element element,
                             const device::ContextShape& shape, int core, A a, B b) {
  device::Context context(runtime, type_of(element), shape, core);
  device::Memory memory_a(runtime, context.a_bytes());
  device::Memory memory_b(runtime, context.b_bytes());
  device::Memory memory_c(runtime, context.c_bytes());
  std::fill_n(memory_a.data(), context.a_bytes(), std::byte(0));
  std::fill_n(memory_b.data(), context.b_bytes(), std::byte(0));
  for (int m = 0; m < shape.m; ++m)
    for (int k = 0; k < shape.k; ++k)
      put(element, memory_a.data(),
          shape.native ? layout::a_at(element, m, k, shape.m) : std::size_t(m * shape.k + k),
          float(a(m, k)));
  for (int k = 0; k < shape.k; ++k)
    for (int n = 0; n < shape.n; ++n)
      put(element, memory_b.data(), layout::b_at(element, k, n, shape.k), float(b(k, n)));
  memory_a.to_device(&context);
  memory_b.to_device(&context);
  context.bind(memory_a, memory_b, memory_c);
  context.run();
  memory_c.from_device(&context);
  std::vector<double> result(std::size_t(shape.m) * std::size_t(shape.n));
  for (int m = 0; m < shape.m; ++m)
    for (int n = 0; n < shape.n; ++n)
      result[std::size_t(m * shape.n + n)] =
          get(element, memory_c.data(),
              shape.native ? layout::c_at(element, m, n, shape.m) : std::size_t(m * shape.n + n));
  return result;
}

/// The answer for the tallest product; a lower one has its first rows.
std::vector<int> known_answer(int depth, int columns) {
  const int rows = kTallest;
  std::vector<int> b(std::size_t(depth * columns)), sums(std::size_t(rows * columns), 0);
  for (int k = 0; k < depth; ++k)
    for (int n = 0; n < columns; ++n) b[std::size_t(k * columns + n)] = b_value(k, n);
  for (int m = 0; m < rows; ++m) {
    for (int k = 0; k < depth; ++k) {
      const int a = a_value(m, k);
      for (int n = 0; n < columns; ++n)
        sums[std::size_t(m * columns + n)] += a * b[std::size_t(k * columns + n)];
    }
  }
  return sums;
}

Verdict wrong_answer(Element element, const device::ContextShape& shape, int core, std::size_t at,
                     double expected, double got) {
  return {.wrong = true,
          .problem = "the known answer to a " + to_string(shape) + " " + name_of(element) +
                     " product on core " + std::to_string(core) + " is " +
                     std::to_string(int(expected)) + " at row " +
                     std::to_string(int(at) / shape.n) + ", column " +
                     std::to_string(int(at) % shape.n) + ", and the NPU says " +
                     std::to_string(got) + ". This runtime can't be trusted with the type."};
}

Verdict test(const std::shared_ptr<device::Runtime>& runtime, Element element, int core) {
  static const std::array<std::vector<int>, kElements> answers = {
      known_answer(depth_of(Element::int8), int(column_step(Element::int8))),
      known_answer(depth_of(Element::float16), int(column_step(Element::float16))),
      known_answer(depth_of(Element::int4), int(column_step(Element::int4)))};
  const std::vector<int>& expected = answers[std::size_t(element)];
  const auto try_height = [&](int height, bool native) -> Verdict {
    const device::ContextShape shape{height, depth_of(element), int(column_step(element)), native};
    const auto got = multiply(runtime, element, shape, core, a_value, b_value);
    for (std::size_t i = 0; i < got.size(); ++i)
      if (got[i] != expected[i]) return wrong_answer(element, shape, core, i, expected[i], got[i]);
    return {.right = true};
  };
  for (const int height : kHeights)
    if (const Verdict verdict = try_height(height, true); !verdict.right) return verdict;
  Verdict verdict{.right = true, .row_major = element != Element::int4};
  // Without row-major surfaces there are still native ones: slower, and right.
  const auto is_right = [&](int height) {
    for (int tries = 0; tries < 2; ++tries) {
      try {
        return try_height(height, false).right;
      } catch (const Error&) {  // a call that failed
      }
    }
    return false;
  };
  for (const int height : kRowMajorHeights)
    verdict.row_major = verdict.row_major && is_right(height);
  return verdict;
}

/// The largest sums that int16 is asked to hold, of both signs.
Verdict test_extremes(const std::shared_ptr<device::Runtime>& runtime, int core) {
  constexpr int depth = int(certified_depth(kInt4Max, kInt4Max));
  const device::ContextShape shape{4, depth, int(column_step(Element::int4))};
  const auto b = [](int, int n) { return n % 2 == 0 ? -8 : 7; };
  const auto got = multiply(runtime, Element::int4, shape, core, [](int, int) { return -8; }, b);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double expected = -8.0 * b(0, int(i)) * depth;
    if (got[i] != expected) return wrong_answer(Element::int4, shape, core, i, expected, got[i]);
  }
  return {.right = true};
}

/// One subnormal, 2^-20, times 2^15: 2^-5 if the device keeps it, 0 if it flushes it.
bool flushes_subnormals(const std::shared_ptr<device::Runtime>& runtime, int core) {
  const auto got = multiply(
      runtime, Element::float16, {4, 32, 32}, core,
      [](int, int k) { return k == 0 ? 0x1p-20f : 0.0f; },
      [](int k, int) { return k == 0 ? 0x1p15f : 0.0f; });
  for (const double value : got)
    if (value != 0x1p-5) return true;
  return false;
}

}  // namespace

Verdict self_test(const std::shared_ptr<device::Runtime>& runtime, Element element, int core) {
  try {
    Verdict verdict = test(runtime, element, core);
    if (verdict.right && element == Element::int4) verdict = test_extremes(runtime, core);
    if (verdict.right && element == Element::float16)
      verdict.flushes_subnormals = flushes_subnormals(runtime, core);
    return verdict;
  } catch (const std::exception& error) {
    return {.problem = error.what()};
  }
}

}  // namespace npublas::exec
