#include "npublas/math/unpack.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "npublas/base/half.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kRowsTogether =
    16;  // a block of C whose lines stay in L1 while it is turned

template <typename T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void write(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// Visits every element of the target, a block of rows at a time, the four columns of a group
/// together.
template <typename Source, typename Visit>
void for_each(const Source* surface, std::int64_t surface_rows, const Target& target, Visit visit) {
  for (std::int64_t first = 0; first < target.rows; first += kRowsTogether) {
    const std::int64_t last = std::min(first + kRowsTogether, target.rows);
    for (std::int64_t column = 0; column < target.columns; column += layout::kCColumns) {
      const std::int64_t width = std::min(layout::kCColumns, target.columns - column);
      for (std::int64_t row = first; row < last; ++row) {
        const Source* const from = surface + layout::c_at(row, column, surface_rows);
        std::byte* const to = static_cast<std::byte*>(target.data) + row * target.row_stride +
                              column * target.column_stride;
        for (std::int64_t i = 0; i < width; ++i)
          visit(from[i], to + i * target.column_stride, row, column + i);
      }
    }
  }
}

template <typename T>
Unpacked unpack_integers(const std::int32_t* surface, std::int64_t surface_rows, bool accumulate,
                         const Target& target) {
  std::uint32_t any = 0;
  for_each(surface, surface_rows, target,
           [&](std::int32_t sum, std::byte* to, std::int64_t, std::int64_t) {
             any |= std::uint32_t(sum);
             const std::uint32_t before = accumulate ? std::uint32_t(read<T>(to)) : 0u;
             write(to, T(before + std::uint32_t(sum)));
           });
  return {.finite = true, .zero = any == 0};
}

template <typename T>
Unpacked unpack_floats(const float* surface, std::int64_t surface_rows,
                       const std::int32_t* row_exponents, const std::int32_t* column_exponents,
                       bool accumulate, const Target& target) {
  std::vector<double> row_scales(std::size_t(target.rows)),
      column_scales(std::size_t(target.columns));
  for (std::int64_t i = 0; i < target.rows; ++i)
    row_scales[std::size_t(i)] = std::ldexp(1.0, -row_exponents[i]);
  for (std::int64_t j = 0; j < target.columns; ++j)
    column_scales[std::size_t(j)] = std::ldexp(1.0, -column_exponents[j]);
  std::uint32_t any = 0;
  bool finite = true, underflow = false;
  for_each(surface, surface_rows, target,
           [&](float sum, std::byte* to, std::int64_t row, std::int64_t column) {
             any |= std::bit_cast<std::uint32_t>(sum) & 0x7fffffffu;
             const double scaled =
                 double(sum) * row_scales[std::size_t(row)] * column_scales[std::size_t(column)];
             T value = T(scaled);
             underflow |=
                 std::fabs(value) < std::numeric_limits<T>::min() && double(value) != scaled;
             // A zero is +0 whatever its terms' signs, as a sum that starts at +0 is.
             value += accumulate ? read<T>(to) : T(0);
             finite &= std::isfinite(float(value));
             write(to, value);
           });
  return {.finite = finite, .underflow = underflow, .zero = any == 0};
}

}  // namespace

Unpacked unpack(const void* surface, Element element, std::int64_t surface_rows,
                const std::int32_t* row_exponents, const std::int32_t* column_exponents,
                bool accumulate, const Target& target) {
  if (element == Element::int8) {
    const auto* const sums = static_cast<const std::int32_t*>(surface);
    if (target.dtype == DType::int32)
      return unpack_integers<std::uint32_t>(sums, surface_rows, accumulate, target);
    return unpack_integers<std::uint8_t>(sums, surface_rows, accumulate, target);
  }
  const auto* const sums = static_cast<const float*>(surface);
  if (target.dtype == DType::float64)
    return unpack_floats<double>(sums, surface_rows, row_exponents, column_exponents, accumulate,
                                 target);
  return unpack_floats<float>(sums, surface_rows, row_exponents, column_exponents, accumulate,
                              target);
}

Rounded round_to_half(const float* sums, std::int64_t rows, std::int64_t columns, void* data,
                      std::ptrdiff_t row_stride, std::ptrdiff_t column_stride) {
  Rounded rounded;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::byte* const to = static_cast<std::byte*>(data) + row * row_stride;
    for (std::int64_t column = 0; column < columns; ++column) {
      const float sum = sums[row * columns + column];
      const std::uint16_t half = float_to_half(sum);
      rounded.overflow |= (half & 0x7fffu) == 0x7c00u;
      rounded.underflow |= std::fabs(sum) < 0x1p-14f && half_to_float(half) != sum;
      write(to + column * column_stride, half);
    }
  }
  return rounded;
}

}  // namespace npublas
