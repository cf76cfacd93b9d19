#include "npublas/math/finish.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <string>

#include "npublas/base/error.hpp"
#include "npublas/base/half.hpp"

namespace npublas {
namespace {

/// A float of a type of the target: how it is kept, read, and made from a double with one rounding.
struct Float16 {
  using Bits = std::uint16_t;
  static constexpr double kSmallestNormal = 0x1p-14;
  static double value(Bits bits) { return half_to_float(bits); }
  static Bits round(double x) { return float_to_half(double_to_odd_float(x)); }
};
struct BFloat16 {
  using Bits = std::uint16_t;
  static constexpr double kSmallestNormal = 0x1p-126;
  static double value(Bits bits) { return bfloat16_to_float(bits); }
  static Bits round(double x) { return float_to_bfloat16(double_to_odd_float(x)); }
};
template <typename T>
struct Native {
  using Bits = T;
  static constexpr double kSmallestNormal = std::numeric_limits<T>::min();
  static double value(T x) { return x; }
  static T round(double x) { return T(x); }
};

template <typename Float, typename Sum>
Rounded finish_as(const Sum* sums, const Epilogue& epilogue, const Target& target) {
  using Bits = typename Float::Bits;
  const bool plain = epilogue.is_plain();
  Rounded rounded;
  for (std::int64_t row = 0; row < target.rows; ++row) {
    std::byte* const to = static_cast<std::byte*>(target.data) + row * target.row_stride;
    for (std::int64_t column = 0; column < target.columns; ++column) {
      std::byte* const at = to + column * target.column_stride;
      double value = double(sums[row * target.columns + column]);
      bool finite = std::isfinite(value);  // all that the value is made of
      if (!plain) {
        double addend = 0;
        if (epilogue.beta != 0) {
          Bits before;
          std::memcpy(&before, at, sizeof before);
          addend = epilogue.beta * Float::value(before);
          finite &= std::isfinite(Float::value(before));
        }
        if (epilogue.bias) {
          addend += epilogue.bias[column];
          finite &= std::isfinite(epilogue.bias[column]);
        }
        value = epilogue.alpha * value;
        if (epilogue.beta != 0 || epilogue.bias) value += addend;
        value = activate(epilogue.activation, value);
      }
      const Bits bits = Float::round(value);
      const double result = Float::value(bits);
      rounded.overflow |= finite & std::isinf(result);
      rounded.underflow |= (std::fabs(value) < Float::kSmallestNormal) & (result != value);
      std::memcpy(at, &bits, sizeof bits);
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
      return x < 0 ? 0 : x;  // NaN stays
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
