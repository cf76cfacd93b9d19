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
#include "npublas/math/unpacking.hpp"

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

// Columns that go the general way together, in loops of one thing each, which are vectorised.
constexpr std::int64_t kTogether = 64;
static_assert(kTogether % kFinishedTogether == 0);

/// Rounds `count` values to where they belong. `finite` says what was made of finite numbers only;
/// null if a value is all that it was made of.
template <typename Float, typename Value>
void round_together(const Value* values, const bool* finite, std::int64_t count, std::byte* to,
                    Rounded& rounded) {
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
  std::memcpy(to, bits, std::size_t(count) * sizeof bits[0]);
}

/// The whole formula, of `count` sums. `bias` and `before` may be null.
template <typename Float, typename Sum>
void finish_together(const Sum* sums, const Epilogue& epilogue, const double* bias,
                     const std::byte* before, std::int64_t count, std::byte* to, Rounded& rounded) {
  double values[kTogether];
  bool finite[kTogether];
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] = epilogue.alpha * double(sums[i]);
    finite[i] = std::isfinite(sums[i]);
  }
  if (before) {
    for (std::int64_t i = 0; i < count; ++i) {
      typename Float::Bits bits;
      std::memcpy(&bits, before + i * std::int64_t(sizeof bits), sizeof bits);
      const double old = Float::value(bits);
      values[i] += epilogue.beta * old;
      finite[i] &= std::isfinite(old);
    }
  }
  if (bias) {
    for (std::int64_t i = 0; i < count; ++i) {
      values[i] += bias[i];
      finite[i] &= std::isfinite(bias[i]);
    }
  }
  if (epilogue.activation == Activation::relu)  // as a mask: signs are as good as random
    for (std::int64_t i = 0; i < count; ++i) values[i] = relu(values[i]);
  else if (epilogue.activation != Activation::none)
    for (std::int64_t i = 0; i < count; ++i) values[i] = activate(epilogue.activation, values[i]);
  round_together<Float>(values, finite, count, to, rounded);
}

// Columns of a row that are finished before the next ones. Their results stay in L1.
constexpr std::int64_t kPart = 1024;

/// A block of sums into a target of one type.
template <typename Float, typename Sum>
class Finishing {
 public:
  Finishing(const Sum* sums, const Epilogue& epilogue, const Target& target)
      : sums_(sums),
        epilogue_(epilogue),
        target_(target),
        machine_(finishers_for(isa_in_use())),
        has_neighbours_(target.column_stride == kSize),
        streams_(machine_ && has_neighbours_ && target.whole_bytes >= kStreamedFrom &&
                 epilogue.beta == 0) {
    constexpr DType type = sizeof(Sum) == sizeof(double) ? DType::float64 : DType::float32;
    if (machine_ &&
        (epilogue.activation == Activation::none || epilogue.activation == Activation::relu))
      fast_ = machine_->of(type, target.dtype);
  }

  Rounded run() {
    for (std::int64_t row = 0; row < target_.rows; ++row) {
      for (std::int64_t column = 0, count; column < target_.columns; column += count) {
        std::byte* const to = static_cast<std::byte*>(target_.data) + row * target_.row_stride +
                              column * target_.column_stride;
        count = part_of(target_.columns - column, to);
        finish(sums_ + row * target_.columns + column,
               epilogue_.bias ? epilogue_.bias + column : nullptr, count, to);
      }
    }
    return rounded_;
  }

 private:
  using Bits = typename Float::Bits;
  static constexpr std::ptrdiff_t kSize = sizeof(Bits);

  /// How many columns make a part, of what is left: so many that the next one begins a line.
  std::int64_t part_of(std::int64_t left, const std::byte* to) const {
    if (left <= kPart) return left;
    const auto over = std::ptrdiff_t(reinterpret_cast<std::uintptr_t>(to) % kLineBytes);
    return kPart - over / kSize;
  }

  void finish(const Sum* sums, const double* bias, std::int64_t count, std::byte* to) {
    alignas(kLineBytes) std::byte buffer[kPart * kSize], old[kPart * kSize];
    const bool reads = epilogue_.beta != 0;
    std::byte* const results = has_neighbours_ && !streams_ && !reads ? to : buffer;
    const std::byte* const before = !reads ? nullptr : has_neighbours_ ? to : old;
    if (before == old)
      for (std::int64_t i = 0; i < count; ++i)
        std::memcpy(old + i * kSize, to + i * target_.column_stride, kSize);
    for (std::int64_t done = 0; done < count;) {
      const auto from = [&](std::int64_t columns) {
        return Columns{sums + done, bias ? bias + done : nullptr,
                       before ? before + done * kSize : nullptr, columns, results + done * kSize};
      };
      if (fast_) done += finish_fast(from(count - done));
      if (done < count) done += finish_generally(from(std::min(kTogether, count - done)));
    }
    if (streams_) {
      machine_->stream(results, to, std::size_t(count) * kSize);
    } else if (!has_neighbours_) {
      for (std::int64_t i = 0; i < count; ++i)
        std::memcpy(to + i * target_.column_stride, results + i * kSize, kSize);
    } else if (results != to) {
      std::memcpy(to, results, std::size_t(count) * kSize);
    }
  }

  struct Columns {
    const Sum* sums;
    const double* bias;
    const std::byte* before;
    std::int64_t count;
    std::byte* results;
  };

  /// By the machine's own loops, as far as they go.
  std::int64_t finish_fast(const Columns& columns) {
    constexpr std::int64_t kStep = kFinishedTogether;
    FinishRow row{.sums = columns.sums,
                  .alpha = epilogue_.alpha,
                  .beta = epilogue_.beta,
                  .bias = columns.bias,
                  .before = columns.before,
                  .relu = epilogue_.activation == Activation::relu,
                  .columns = columns.count / kStep * kStep,
                  .results = columns.results};
    const std::int64_t done = fast_(row, rounded_.underflow), rest = columns.count - done;
    if (done < row.columns || rest == 0) return done;
    // The last ones, which zeros make whole.
    Sum sums[kStep] = {};
    double bias[kStep] = {};
    std::byte before[kStep * kSize] = {}, results[kStep * kSize];
    std::copy_n(columns.sums + done, rest, sums);
    row.sums = sums;
    if (row.bias) {
      std::copy_n(columns.bias + done, rest, bias);
      row.bias = bias;
    }
    if (row.before) {
      std::memcpy(before, columns.before + done * kSize, std::size_t(rest) * kSize);
      row.before = before;
    }
    row.columns = kStep;
    row.results = results;
    if (fast_(row, rounded_.underflow) < kStep) return done;
    std::memcpy(columns.results + done * kSize, results, std::size_t(rest) * kSize);
    return columns.count;
  }

  std::int64_t finish_generally(const Columns& columns) {
    if (epilogue_.is_plain())
      round_together<Float>(columns.sums, nullptr, columns.count, columns.results, rounded_);
    else
      finish_together<Float>(columns.sums, epilogue_, columns.bias, columns.before, columns.count,
                             columns.results, rounded_);
    return columns.count;
  }

  const Sum* const sums_;
  const Epilogue& epilogue_;
  const Target& target_;
  const Finishers* const machine_;
  Finish fast_ = nullptr;
  const bool has_neighbours_, streams_;  // the target's columns; past the caches
  Rounded rounded_;
};

template <typename Sum>
Rounded finish_from(const Sum* sums, const Epilogue& epilogue, const Target& target) {
  switch (target.dtype) {
    case DType::float16:
      return Finishing<Float16, Sum>(sums, epilogue, target).run();
    case DType::bfloat16:
      return Finishing<BFloat16, Sum>(sums, epilogue, target).run();
    case DType::float32:
      return Finishing<Native<float>, Sum>(sums, epilogue, target).run();
    case DType::float64:
      return Finishing<Native<double>, Sum>(sums, epilogue, target).run();
    default:
      throw Error(ErrorKind::argument, std::string("sums of floats can't be finished as ") +
                                           name_of(target.dtype) + ".");
  }
}

}  // namespace

const Finishers* finishers_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return &kAvx512Finishers;
  if (isa == Isa::avx2) return &kAvx2Finishers;
#elif defined(__aarch64__)
  if (isa == Isa::neon) return &kNeonFinishers;
#endif
  (void)isa;
  return nullptr;
}

Rounded begin_to_finish(const void* sums, DType sums_type, const Epilogue& epilogue,
                        const Target& target) {
  if (sums_type == DType::float64)
    return finish_from(static_cast<const double*>(sums), epilogue, target);
  if (sums_type == DType::float32)
    return finish_from(static_cast<const float*>(sums), epilogue, target);
  throw Error(ErrorKind::argument, std::string("sums can't be ") + name_of(sums_type) + ".");
}

Rounded finish(const void* sums, DType sums_type, const Epilogue& epilogue, const Target& target) {
  const Rounded rounded = begin_to_finish(sums, sums_type, epilogue, target);
  unpackers_for(isa_in_use()).finish_streaming();
  return rounded;
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
