// # Scaled sums
// Sums of floats, or of quantised integers, with the scales that packing has put on: what unpacking
// and finishing share. Decides once in which arithmetic the scales come off, and collects what is
// seen.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "npublas/math/unpacking.hpp"

namespace npublas {

inline bool all_zero(const std::uint32_t (&any)[SeenInStrips::kLanes], std::uint32_t mask) {
  std::uint32_t all = 0;
  for (const std::uint32_t lane : any) all |= lane;
  return (all & mask) == 0;
}

/// Powers of two as floats, and the range of their exponents.
class Powers {
 public:
  Powers(const double* scales, std::int64_t count) : floats_(std::size_t(count)) {
    std::uint64_t mantissas = 0, largest = 0, smallest = ~std::uint64_t(0);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto bits = std::bit_cast<std::uint64_t>(scales[i]);
      mantissas |= bits & kMantissa;
      largest = std::max(largest, bits);  // a sign makes it larger than any exponent
      smallest = std::min(smallest, bits);
      floats_[std::size_t(i)] = float(scales[i]);
    }
    lowest_ = std::int64_t(smallest >> 52) - 1023;
    highest_ = std::int64_t(largest >> 52) - 1023;
    are_powers_ = mantissas == 0;
  }
  /// True if all of them, of the others, and of the products of one of each, are normal floats.
  bool make_floats_with(const Powers& others) const {
    const auto normal = [](std::int64_t low, std::int64_t high) {
      return low >= -126 && high <= 127;
    };
    return are_powers_ && others.are_powers_ && normal(lowest_, highest_) &&
           normal(others.lowest_, others.highest_) &&
           normal(lowest_ + others.lowest_, highest_ + others.highest_);
  }
  const float* floats() const { return floats_.data(); }

 private:
  static constexpr std::uint64_t kMantissa = (std::uint64_t(1) << 52) - 1;
  std::vector<float> floats_;
  std::int64_t lowest_, highest_;
  bool are_powers_;
};

/// True if the products of one scale of each and of any int32 are zero or normal floats.
inline bool make_ordinary(const double* row_scales, std::int64_t rows, const double* column_scales,
                          std::int64_t columns) {
  const auto [row_least, row_most] = std::minmax_element(row_scales, row_scales + rows);
  const auto [column_least, column_most] =
      std::minmax_element(column_scales, column_scales + columns);
  return *row_least > 0 && *column_least > 0 && *row_least * *column_least >= 0x1p-126 &&
         *row_most * *column_most <= 0x1p96;
}

/// Floats, or int32 of quantised operands, with their scales.
class ScaledSums {
 public:
  /// For a target of that size and type, or parts of it.
  ScaledSums(SumsOf sums, const void* main, const void* a_low, const void* b_low,
             const Surface& surface, const double* row_scales, const double* column_scales,
             bool accumulate, std::int64_t rows, std::int64_t columns, DType target)
      : sums_(sums), accumulate_(accumulate) {
    const bool is_native = surface.layout == Layout::native;
    if (rows == 0 || columns == 0) return;
    if (sums == SumsOf::quantized && target == DType::float32 && !accumulate &&
        make_ordinary(row_scales, rows, column_scales, columns))
      sums_ = SumsOf::ordinary;
    if (sums == SumsOf::floats && target == DType::float32) {
      rows_.emplace(row_scales, rows);
      columns_.emplace(column_scales, columns);
    }
    const bool powers = rows_ && rows_->make_floats_with(*columns_);
    source_ = {.main = static_cast<const std::uint32_t*>(main),
               .a_low = static_cast<const std::uint32_t*>(a_low),
               .b_low = static_cast<const std::uint32_t*>(b_low),
               .is_native = is_native,
               .row_step = is_native ? 4 : surface.columns,
               .group_step = is_native ? 4 * surface.rows : 4,
               .of_rows = reinterpret_cast<const std::byte*>(row_scales),
               .of_columns = reinterpret_cast<const std::byte*>(column_scales),
               .row_size = sizeof(double),
               .column_size = sizeof(double),
               .row_floats = powers ? rows_->floats() : nullptr,
               .column_floats = powers ? columns_->floats() : nullptr};
  }

  /// The part that begins at this row and column, a multiple of 4.
  void unpack(std::int64_t row, std::int64_t column, const Target& target) {
    unpack_target(source_.from(row, column), sums_, accumulate_, target, seen_);
  }

  /// Where they come from if all that there is to do is a multiplication of floats; else null.
  const SumSource* by_powers() const {
    return sums_ == SumsOf::floats && source_.row_floats ? &source_ : nullptr;
  }
  SeenInStrips& seen_in_strips() { return seen_; }

  /// Of all parts so far.
  Unpacked seen() const {
    constexpr std::uint32_t kInfinity = 0x7f800000u;
    const std::uint32_t largest = *std::max_element(seen_.largest, std::end(seen_.largest));
    // Floats of -0 are zeros, too.
    const bool integers = sums_ == SumsOf::quantized || sums_ == SumsOf::ordinary;
    const std::uint32_t mask = integers ? ~0u : 0x7fffffffu;
    return {.finite = largest < kInfinity,
            .underflow = seen_.underflow,
            .main_zero = all_zero(seen_.main, mask),
            .a_low_zero = all_zero(seen_.a_low, mask),
            .b_low_zero = all_zero(seen_.b_low, mask)};
  }

 private:
  SumsOf sums_;
  bool accumulate_;
  std::optional<Powers> rows_, columns_;
  SumSource source_ = {};
  SeenInStrips seen_;
};

inline SumsOf kind_of(const FloatSums& sums) {
  return sums.a_low || sums.b_low ? SumsOf::floats_in_parts : SumsOf::floats;
}

}  // namespace npublas
