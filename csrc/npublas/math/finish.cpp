#include "npublas/math/finish.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/base/half.hpp"
#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

/// A type that a target may have: how it is kept, read, and made with one rounding, from a double
/// or from a float that is the value itself.
struct Float16 {
  using Bits = std::uint16_t;
  static constexpr double kSmallestNormal = 0x1p-14;
  static float value(Bits bits) { return half_to_float(bits); }
  static Bits round(float x) { return float_to_half(x); }
  static Bits round(double x) { return float_to_half(double_to_odd_float(x)); }
};
struct BFloat16 {
  using Bits = std::uint16_t;
  static constexpr double kSmallestNormal = 0x1p-126;
  static float value(Bits bits) { return bfloat16_to_float(bits); }
  static Bits round(float x) { return float_to_bfloat16(x); }
  static Bits round(double x) { return float_to_bfloat16(double_to_odd_float(x)); }
};
template <typename T>
struct Native {
  using Bits = T;
  static constexpr double kSmallestNormal = std::numeric_limits<T>::min();
  static T value(T x) { return x; }
  static T round(float x) { return T(x); }
  static T round(double x) { return T(x); }
};

/// max(x, 0), and NaN stays NaN.
double relu(double x) {
  const std::uint64_t keep = 0u - std::uint64_t(!(x < 0));
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(x) & keep);
}

// Columns that are finished together, in loops of one thing each, which are vectorised.
constexpr std::int64_t kTogether = kFinishedTogether;

/// Rounds `count` values to where they belong. `finite` says what was made of finite numbers only;
/// null if a value is all that it was made of.
template <typename Float, typename Value>
void round_together(const Value* values, const bool* finite, std::int64_t count, std::byte* to,
                    std::ptrdiff_t stride, Rounded& rounded) {
  typename Float::Bits bits[kTogether];
  for (std::int64_t i = 0; i < count; ++i) bits[i] = Float::round(values[i]);
  unsigned overflow = 0, underflow = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto result = Float::value(bits[i]);
    overflow |=
        unsigned(std::isinf(result)) & unsigned(finite ? finite[i] : std::isfinite(values[i]));
    underflow |= unsigned(std::fabs(values[i]) < Value(Float::kSmallestNormal)) &
                 unsigned(result != values[i]);
  }
  rounded.overflow |= overflow != 0;
  rounded.underflow |= underflow != 0;
  if (stride == std::ptrdiff_t(sizeof bits[0])) {
    std::memcpy(to, bits, std::size_t(count) * sizeof bits[0]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(to + i * stride, &bits[i], sizeof bits[0]);
  }
}

/// The whole formula, of `count` sums.
template <typename Float, typename Sum>
void finish_together(const Sum* sums, const Epilogue& epilogue, std::int64_t column,
                     std::int64_t count, std::byte* to, std::ptrdiff_t stride, Rounded& rounded) {
  double values[kTogether];
  bool finite[kTogether];
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] = epilogue.alpha * double(sums[i]);
    finite[i] = std::isfinite(sums[i]);
  }
  if (epilogue.beta != 0) {
    for (std::int64_t i = 0; i < count; ++i) {
      typename Float::Bits bits;
      std::memcpy(&bits, to + i * stride, sizeof bits);
      const double before = Float::value(bits);
      values[i] += epilogue.beta * before;
      finite[i] &= std::isfinite(before);
    }
  }
  if (epilogue.bias) {
    for (std::int64_t i = 0; i < count; ++i) {
      values[i] += epilogue.bias[column + i];
      finite[i] &= std::isfinite(epilogue.bias[column + i]);
    }
  }
  if (epilogue.activation == Activation::relu)  // as a mask: signs are as good as random
    for (std::int64_t i = 0; i < count; ++i) values[i] = relu(values[i]);
  else if (epilogue.activation != Activation::none)
    for (std::int64_t i = 0; i < count; ++i) values[i] = activate(epilogue.activation, values[i]);
  round_together<Float>(values, finite, count, to, stride, rounded);
}

/// The same by the machine's own loops. False if they don't take it; then nothing has happened.
template <typename Float, typename Sum>
bool finish_fast(Finish finish, const Sum* sums, const Epilogue& epilogue, std::int64_t column,
                 std::int64_t count, std::byte* to, std::ptrdiff_t stride, Rounded& rounded) {
  using Bits = typename Float::Bits;
  const bool whole = count == kTogether;
  const bool neighbours = stride == std::ptrdiff_t(sizeof(Bits));
  Sum some_sums[kTogether];
  double some_bias[kTogether];
  Bits before[kTogether], results[kTogether];
  FinishChunk chunk{.sums = sums,
                    .alpha = epilogue.alpha,
                    .beta = epilogue.beta,
                    .bias = epilogue.bias ? epilogue.bias + column : nullptr,
                    .before = nullptr,
                    .relu = epilogue.activation == Activation::relu};
  if (!whole) {  // zeros make it whole
    std::fill(std::copy_n(sums, count, some_sums), some_sums + kTogether, Sum(0));
    chunk.sums = some_sums;
    if (epilogue.bias) {
      std::fill(std::copy_n(chunk.bias, count, some_bias), some_bias + kTogether, 0.0);
      chunk.bias = some_bias;
    }
  }
  if (epilogue.beta != 0) {
    if (!whole) std::fill_n(before, kTogether, Bits(0));
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(&before[i], to + i * stride, sizeof before[i]);
    chunk.before = before;
  }
  if (!finish(chunk, results, rounded.underflow)) return false;
  if (neighbours)
    std::memcpy(to, results, std::size_t(count) * sizeof results[0]);
  else
    for (std::int64_t i = 0; i < count; ++i)
      std::memcpy(to + i * stride, &results[i], sizeof results[i]);
  return true;
}

template <typename Float, typename Sum>
Rounded finish_as(const Sum* sums, const Epilogue& epilogue, const Target& target) {
  Rounded rounded;
  const bool plain = epilogue.is_plain();
  const bool easy =
      epilogue.activation == Activation::none || epilogue.activation == Activation::relu;
  constexpr DType sums_type = sizeof(Sum) == sizeof(double) ? DType::float64 : DType::float32;
  const Finish fast = easy ? finisher_for(isa_in_use(), sums_type, target.dtype) : nullptr;
  for (std::int64_t row = 0; row < target.rows; ++row) {
    for (std::int64_t column = 0; column < target.columns; column += kTogether) {
      const std::int64_t count = std::min(kTogether, target.columns - column);
      const Sum* const from = sums + row * target.columns + column;
      std::byte* const to = static_cast<std::byte*>(target.data) + row * target.row_stride +
                            column * target.column_stride;
      if (fast && finish_fast<Float>(fast, from, epilogue, column, count, to, target.column_stride,
                                     rounded))
        continue;
      if (plain)
        round_together<Float>(from, nullptr, count, to, target.column_stride, rounded);
      else
        finish_together<Float>(from, epilogue, column, count, to, target.column_stride, rounded);
    }
  }
  return rounded;
}

template <typename Sum>
Rounded finish_from(const Sum* sums, const Epilogue& epilogue, const Target& target) {
  switch (target.dtype) {
    case DType::float16:
      return finish_as<Float16>(sums, epilogue, target);
    case DType::bfloat16:
      return finish_as<BFloat16>(sums, epilogue, target);
    case DType::float32:
      return finish_as<Native<float>>(sums, epilogue, target);
    case DType::float64:
      return finish_as<Native<double>>(sums, epilogue, target);
    default:
      throw Error(ErrorKind::argument, std::string("sums of floats can't be finished as ") +
                                           name_of(target.dtype) + ".");
  }
}

}  // namespace

Finish finisher_for(Isa isa, DType sums, DType target) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return finisher_avx512(sums, target);
  if (isa == Isa::avx2) return finisher_avx2(sums, target);
#endif
  (void)isa, (void)sums, (void)target;
  return nullptr;
}

Rounded finish(const void* sums, DType sums_type, const Epilogue& epilogue, const Target& target) {
  if (sums_type == DType::float64)
    return finish_from(static_cast<const double*>(sums), epilogue, target);
  if (sums_type == DType::float32)
    return finish_from(static_cast<const float*>(sums), epilogue, target);
  throw Error(ErrorKind::argument, std::string("sums can't be ") + name_of(sums_type) + ".");
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::relu:
      return relu(x);
    case Activation::gelu:
      return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
    case Activation::gelu_tanh: {
      constexpr double kSlope = 0.7978845608028654;  // sqrt(2 / pi)
      return 0.5 * x * (1 + std::tanh(kSlope * (x + 0.044715 * x * x * x)));
    }
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::none:
      break;
  }
  return x;
}

}  // namespace npublas
