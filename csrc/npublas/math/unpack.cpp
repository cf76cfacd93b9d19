#include "npublas/math/unpack.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/math/pack.hpp"

namespace npublas {
namespace {

// A block of C whose lines stay in L1 while it is turned.
constexpr std::int64_t kRowsTogether = 16;
constexpr std::int64_t kGroup = layout::kCColumns;

/// All bits but the sign.
std::uint32_t magnitude_of(float value) {
  return std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
}

/// Visits every element of the target, a block of rows at a time, the columns of a group together:
/// `visit(index, before, row, column)` gets the element's index in the surface and what the target
/// holds (`accumulate`, else 0), and returns what it is to hold.
template <typename T, typename Visit>
void for_each(const Surface& surface, bool accumulate, const Target& target, Visit visit) {
  const bool together = target.column_stride == std::ptrdiff_t(sizeof(T));
  for (std::int64_t first = 0; first < target.rows; first += kRowsTogether) {
    const std::int64_t last = std::min(first + kRowsTogether, target.rows);
    for (std::int64_t column = 0; column < target.columns; column += kGroup) {
      const std::int64_t width = std::min(kGroup, target.columns - column);
      for (std::int64_t row = first; row < last; ++row) {
        const std::size_t from = surface.layout == Layout::native
                                     ? layout::c_at(row, column, surface.rows)
                                     : std::size_t(row * surface.columns + column);
        std::byte* const to = static_cast<std::byte*>(target.data) + row * target.row_stride +
                              column * target.column_stride;
        T group[kGroup] = {};
        if (together && width == kGroup) {  // in whole registers
          if (accumulate) std::memcpy(group, to, sizeof group);
          for (std::int64_t i = 0; i < kGroup; ++i)
            group[i] = visit(from + std::size_t(i), group[i], row, column + i);
          std::memcpy(to, group, sizeof group);
        } else {
          for (std::int64_t i = 0; i < width; ++i) {
            std::byte* const at = to + i * target.column_stride;
            if (accumulate) std::memcpy(&group[i], at, sizeof(T));
            group[i] = visit(from + std::size_t(i), group[i], row, column + i);
            std::memcpy(at, &group[i], sizeof(T));
          }
        }
      }
    }
  }
}

template <typename T>
Unpacked integers(const std::int32_t* sums, const Surface& surface, const std::int32_t* row_offsets,
                  const std::int32_t* column_offsets, bool accumulate, const Target& target) {
  std::uint32_t any = 0;
  for_each<T>(surface, accumulate, target,
              [&](std::size_t index, T before, std::int64_t row, std::int64_t column) {
                std::uint32_t sum = std::uint32_t(sums[index]);
                any |= sum;
                if (row_offsets) sum += std::uint32_t(row_offsets[row]);
                if (column_offsets) sum += std::uint32_t(column_offsets[column]);
                return T(before + sum);
              });
  return {.main_zero = any == 0};
}

/// What makes an element of each surface something else than zero.
struct Any {
  std::uint32_t main = 0, a_low = 0, b_low = 0;
};

/// `sum(index, any)` is the element, in double, and adds the bits of what it is made of to `any`.
template <typename T, typename Sum>
Unpacked scaled(Sum sum, const Surface& surface, const double* row_scales,
                const double* column_scales, bool accumulate, const Target& target) {
  Any any;
  bool finite = true, underflow = false;
  for_each<T>(surface, accumulate, target,
              [&](std::size_t index, T before, std::int64_t row, std::int64_t column) {
                // The product of the scales is exact: powers of two, or floats.
                const double exact = row_scales[row] * column_scales[column] * sum(index, any);
                // A zero is +0 whatever its terms' signs, as a sum that starts at +0 is.
                const double total = double(before) + exact;
                const T value = T(total);
                underflow |=
                    std::fabs(value) < std::numeric_limits<T>::min() && double(value) != total;
                finite &= std::isfinite(float(value));
                return value;
              });
  return {.finite = finite,
          .underflow = underflow,
          .main_zero = any.main == 0,
          .a_low_zero = any.a_low == 0,
          .b_low_zero = any.b_low == 0};
}

template <typename Sum>
Unpacked scaled(Sum sum, const Surface& surface, const double* row_scales,
                const double* column_scales, bool accumulate, const Target& target) {
  if (target.dtype == DType::float64)
    return scaled<double>(sum, surface, row_scales, column_scales, accumulate, target);
  if (target.dtype == DType::float32)
    return scaled<float>(sum, surface, row_scales, column_scales, accumulate, target);
  throw Error(ErrorKind::argument,
              std::string("float sums can't be unpacked into ") + name_of(target.dtype) + ".");
}

}  // namespace

Unpacked unpack_integers(const std::int32_t* sums, const Surface& surface,
                         const std::int32_t* row_offsets, const std::int32_t* column_offsets,
                         bool accumulate, const Target& target) {
  const auto into = [&](auto unpack) {
    return unpack(sums, surface, row_offsets, column_offsets, accumulate, target);
  };
  switch (target.dtype) {
    case DType::int8:
    case DType::uint8:
      return into(integers<std::uint8_t>);
    case DType::int16:
      return into(integers<std::uint16_t>);
    case DType::int32:
      return into(integers<std::uint32_t>);
    default:
      throw Error(ErrorKind::argument,
                  std::string("int32 sums can't be unpacked into ") + name_of(target.dtype) + ".");
  }
}

Unpacked unpack_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, bool accumulate, const Target& target) {
  const auto& [main, a_low, b_low] = sums;
  const auto low = [](const float* from, std::size_t i, std::uint32_t& any) {
    if (!from) return 0.0;
    any |= magnitude_of(from[i]);
    return double(from[i]);
  };
  return scaled(
      [&](std::size_t i, Any& any) {
        any.main |= magnitude_of(main[i]);
        return double(main[i]) + (low(a_low, i, any.a_low) + low(b_low, i, any.b_low)) * kLowScale;
      },
      surface, row_scales, column_scales, accumulate, target);
}

Unpacked unpack_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, bool accumulate,
                          const Target& target) {
  return scaled(
      [=](std::size_t i, Any& any) {
        any.main |= std::uint32_t(sums[i]);
        return double(sums[i]);
      },
      surface, row_scales, column_scales, accumulate, target);
}

}  // namespace npublas
