// # Layouts
// The NPU reads and writes matrices in small blocks. Each layout is a formula, said here once; the
// packers are tested against it and nobody else computes an offset.
//
//   A  [K/x, M, x]          x = 16 (int8), 8 (float16), 32 (int4): 16 bytes of depth per row
//   B  [N/y, K/z, y, z]     y × z = 32×32 (int8), 16×32 (float16), 64×32 (int4)
//   C  [N/w, M, w]          w = 4 (int32, float32), 8 (int16, of int4): 16 bytes per row
//
// Sizes are of the padded surfaces: K a multiple of 32, N of 32 (int4: 64), M 1 or a multiple of 4.
// An int4 is half a byte; that of the even index is the lower half (int4.hpp says why).
//
// Those are the *native* layouts. A and C may be *normal* instead: row-major and without gaps,
// A [M, K], C [M, N]. The runtime then cuts a product otherwise for the on-chip memory and reads B
// for some 320 rows rather than 128, which three cores together need. B is always native.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace npublas {

/// Of A and C.
enum class Layout : std::uint8_t { native, normal };

constexpr const char* name_of(Layout layout) {
  return layout == Layout::native ? "native" : "normal";
}

/// The element type that the NPU multiplies: int8 into int32, float16 into float32, int4 into
/// int16.
enum class Element : std::uint8_t { int8, float16, int4 };
inline constexpr int kElements = 3;
inline constexpr std::array<Element, kElements> kAllElements = {Element::int8, Element::float16,
                                                                Element::int4};

constexpr const char* name_of(Element element) {
  constexpr const char* names[kElements] = {"int8", "float16", "int4"};
  return names[int(element)];
}

/// Bytes of so many elements; of int4, an even number.
constexpr std::size_t bytes_of(Element element, std::size_t elements) {
  constexpr std::size_t bits[kElements] = {8, 16, 4};
  return elements * bits[int(element)] / 8;
}
/// Bytes of an element of C.
constexpr std::size_t bytes_of_sum(Element element) { return element == Element::int4 ? 2 : 4; }

inline constexpr std::int64_t kDepthStep = 32;   // K, every type
inline constexpr std::int64_t kColumnStep = 32;  // N; float16 would take 16 on some chips only

/// What N is a multiple of.
constexpr std::int64_t column_step(Element element) {
  return element == Element::int4 ? 64 : kColumnStep;
}

namespace layout {

constexpr std::int64_t a_depth(Element element) {
  constexpr std::int64_t x[kElements] = {16, 8, 32};
  return x[int(element)];
}
constexpr std::int64_t b_columns(Element element) {
  constexpr std::int64_t y[kElements] = {32, 16, 64};
  return y[int(element)];
}
inline constexpr std::int64_t kBDepth = 32;
inline constexpr std::int64_t kCColumns = 4;  // but of int4
constexpr std::int64_t c_columns(Element element) {
  return element == Element::int4 ? 8 : kCColumns;
}

/// Element index of A(row, depth) on a surface of `rows` rows.
constexpr std::size_t a_at(Element element, std::int64_t row, std::int64_t depth,
                           std::int64_t rows) {
  const std::int64_t x = a_depth(element);
  return std::size_t((depth / x * rows + row) * x + depth % x);
}

/// The same in either layout, on a surface of `rows` × `depths`.
constexpr std::size_t a_at(Layout layout, Element element, std::int64_t row, std::int64_t depth,
                           std::int64_t rows, std::int64_t depths) {
  return layout == Layout::native ? a_at(element, row, depth, rows)
                                  : std::size_t(row * depths + depth);
}

/// Element index of B(depth, column) on a surface of `depths` depth.
constexpr std::size_t b_at(Element element, std::int64_t depth, std::int64_t column,
                           std::int64_t depths) {
  const std::int64_t y = b_columns(element), z = kBDepth;
  return std::size_t(((column / y * (depths / z) + depth / z) * y + column % y) * z + depth % z);
}

/// Element index of C(row, column) on a surface of `rows` rows.
constexpr std::size_t c_at(Element element, std::int64_t row, std::int64_t column,
                           std::int64_t rows) {
  const std::int64_t w = c_columns(element);
  return std::size_t((column / w * rows + row) * w + column % w);
}

/// The same in either layout, on a surface of `rows` × `columns`.
constexpr std::size_t c_at(Layout layout, Element element, std::int64_t row, std::int64_t column,
                           std::int64_t rows, std::int64_t columns) {
  return layout == Layout::native ? c_at(element, row, column, rows)
                                  : std::size_t(row * columns + column);
}

/// In the native layout, of int32 and float32.
constexpr std::size_t c_at(std::int64_t row, std::int64_t column, std::int64_t rows) {
  return c_at(Element::int8, row, column, rows);
}

}  // namespace layout
}  // namespace npublas
