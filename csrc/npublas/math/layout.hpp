// # Native layouts
// The NPU reads and writes matrices in small blocks. Each layout is a formula, said here once; the
// packers are tested against it and nobody else computes an offset.
//
//   A  [K/x, M, x]          x = 16 (int8), 8 (float16)      16 bytes of depth per row, rows
//   together B  [N/y, K/z, y, z]     y × z = 32×32 (int8), 16×32 (float16) C  [N/4, M, 4] int32 or
//   float32
//
// Sizes are of the padded surfaces: K a multiple of 32, N of 32, M 1 or a multiple of 4.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npublas {

/// The element type that the NPU multiplies: int8 into int32, float16 into float32.
enum class Element : std::uint8_t { int8, float16 };
inline constexpr int kElements = 2;

constexpr const char* name_of(Element element) {
  return element == Element::int8 ? "int8" : "float16";
}
constexpr std::size_t bytes_of(Element element) { return element == Element::int8 ? 1 : 2; }

inline constexpr std::int64_t kDepthStep = 32;   // K, every type
inline constexpr std::int64_t kColumnStep = 32;  // N; float16 would take 16 on some chips only

namespace layout {

constexpr std::int64_t a_depth(Element element) { return element == Element::int8 ? 16 : 8; }
constexpr std::int64_t b_columns(Element element) { return element == Element::int8 ? 32 : 16; }
inline constexpr std::int64_t kBDepth = 32;
inline constexpr std::int64_t kCColumns = 4;

/// Element index of A(row, depth) on a surface of `rows` rows.
constexpr std::size_t a_at(Element element, std::int64_t row, std::int64_t depth,
                           std::int64_t rows) {
  const std::int64_t x = a_depth(element);
  return std::size_t((depth / x * rows + row) * x + depth % x);
}

/// Element index of B(depth, column) on a surface of `depths` depth.
constexpr std::size_t b_at(Element element, std::int64_t depth, std::int64_t column,
                           std::int64_t depths) {
  const std::int64_t y = b_columns(element), z = kBDepth;
  return std::size_t(((column / y * (depths / z) + depth / z) * y + column % y) * z + depth % z);
}

/// Element index of C(row, column) on a surface of `rows` rows.
constexpr std::size_t c_at(std::int64_t row, std::int64_t column, std::int64_t rows) {
  return std::size_t((column / kCColumns * rows + row) * kCColumns + column % kCColumns);
}

}  // namespace layout
}  // namespace npublas
