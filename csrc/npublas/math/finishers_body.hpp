// # The body of the finishers
// Included by one file for each set of instructions, after it has defined, in the same anonymous
// namespace, its vectors:
//
//   Doubles, Longs           of 64 bits each
//   Floats, Words, Halves    twice as many, a *step*, of 32 and 16 bits; widen_lower, widen_upper
//                            (_integers), nearest, halve, unhalve, load_groups
//   cut                      (bits | last) & kept
//   at_least, any            masks; Mask, where_at_least, where_equal, where_same: such
//                            as are tested at once
//   stream_line, stream_steps   64 bytes, or of two steps: past the caches, to where they are
//                            aligned; stream_step, where a step of Floats is 64 bytes
//
// A step stays in registers from its sums to its result. Nothing here has external linkage, and
// nothing of the standard library is instantiated: the linker must not find the copy that was
// compiled for other machines.

#include "npublas/math/strips_body.hpp"

constexpr int kStep = int(sizeof(Floats) / sizeof(float));
static_assert(kFinishedTogether % kStep == 0);
constexpr std::uint32_t kMagnitude = 0x7fffffffu;

/// A step in double.
struct Values {
  Doubles lower, upper;
};
inline Values widen(Floats floats) { return {widen_lower(floats), widen_upper(floats)}; }

template <typename Sum>
inline Values read_sums(const Sum* from) {
  if constexpr (sizeof(Sum) == sizeof(double))
    return {read<Doubles>(from), read<Doubles>(from + kStep / 2)};
  else
    return widen(read<Floats>(from));
}

/// Doubles as floats, of which no bit is lost that a rounding to fewer needs: the last one is set
/// if any below it is ("round to odd", as in base/half.hpp). Exact for what is a normal float.
inline Doubles odd(Doubles values) {
  constexpr std::int64_t kBelow = (std::int64_t(1) << 29) - 1;
  const Longs last = ((Longs)values & kBelow) + kBelow;
  return cut(values, last, (Longs{} | ~kBelow));
}
inline Floats odd(const Values& values) { return nearest(odd(values.lower), odd(values.upper)); }

// A type that a target may have: `near` makes floats of which `round` makes the results. All is
// well if the magnitudes of these floats lie in [kLeast, kMost), as bits; and, seen more carefully,
// if those of the values are below kTooLarge, and zero or at least kSmallest. A float whose bits
// below the last one of a normal result (kBelow) are kTie lies halfway between two.
struct ToFloat16 {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kLeast = 0x38800000u, kMost = 0x477ff000u;
  static constexpr double kSmallest = 0x1p-14, kTooLarge = 65520;
  static constexpr std::uint32_t kBelow = 0x1fffu, kTie = 0x1000u;
  static Floats near(const Values& values) { return odd(values); }
  static Halves round(Floats floats) { return halve(floats); }
  static Values read_from(const Bits* from) { return widen(unhalve(read<Halves>(from))); }
};

struct ToBFloat16 {
  using Bits = std::uint16_t;
  static constexpr std::uint32_t kLeast = 0x00800001u, kMost = 0x7f7f8000u;
  static constexpr double kSmallest = 0x1p-126, kTooLarge = 0x1.ffp127;
  static constexpr std::uint32_t kBelow = 0xffffu, kTie = 0x8000u;
  static Floats near(const Values& values) { return odd(values); }
  static Halves round(Floats floats) {
    const Words bits = (Words)floats;
    return __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, Halves);
  }
  static Values read_from(const Bits* from) {
    return widen((Floats)(__builtin_convertvector(read<Halves>(from), Words) << 16));
  }
};

struct ToFloat32 {
  using Bits = float;
  static constexpr std::uint32_t kLeast = 0x00800001u, kMost = 0x7f800000u;
  static constexpr double kSmallest = 0x1p-126, kTooLarge = 0x1.ffffffp127;
  static constexpr std::uint32_t kBelow = 0, kTie = 1;
  static Floats near(const Values& values) { return nearest(values.lower, values.upper); }
  static Floats round(Floats floats) { return floats; }
  static Values read_from(const Bits* from) { return widen(read<Floats>(from)); }
};

// As masks: signs are as good as random. NaN stays.
inline Doubles relu(Doubles values) { return (Doubles)((Longs)values & ~(Longs)(values < 0.0)); }
inline Values relu(const Values& values) { return {relu(values.lower), relu(values.upper)}; }
/// The same of results that are neither zero nor NaN.
typedef std::int16_t Shorts __attribute__((vector_size(sizeof(Halves))));
typedef std::int32_t Integers __attribute__((vector_size(sizeof(Floats))));
inline Halves relu_of_bits(Halves bits) { return (Halves)((Shorts)bits & ~((Shorts)bits >> 15)); }
inline Floats relu_of_bits(Floats bits) {
  return (Floats)((Integers)bits & ~((Integers)bits >> 31));
}

inline Doubles magnitude(Doubles values) {
  return (Doubles)((Longs)values & (std::int64_t(-1) ^ (std::int64_t(1) << 63)));
}

/// alpha · sum + beta · what was there + bias, from column `at` on.
template <typename Read, typename Sum, typename Bits>
inline Values values_at(const FinishRow& row, std::int64_t at, const Sum* sums, const Bits* before,
                        Read read_before) {
  Values values = read_sums(sums + at);
  values.lower = row.alpha * values.lower;
  values.upper = row.alpha * values.upper;
  if (before) {
    const Values old = read_before(before + at);
    values.lower += row.beta * old.lower;
    values.upper += row.beta * old.upper;
  }
  if (row.bias) {
    values.lower += read<Doubles>(row.bias + at);
    values.upper += read<Doubles>(row.bias + at + kStep / 2);
  }
  return values;
}

/// A step of which a value may be zero, or out of the ordinary. False if one is.
template <typename Target>
[[gnu::noinline]] bool finish_carefully(const Values& given, bool is_relu, void* results,
                                        bool& underflow) {
  const Values values = is_relu ? relu(given) : given;
  const Doubles sizes[] = {magnitude(values.lower), magnitude(values.upper)};
  const auto is_small = [](Doubles size) {
    return (Longs)(size < Target::kSmallest) & (Longs)(size != 0.0);
  };
  const Longs lower_small = is_small(sizes[0]), upper_small = is_small(sizes[1]);
  if (any(~((Longs)(sizes[0] < Target::kTooLarge) & (Longs)(sizes[1] < Target::kTooLarge))))
    return false;
  const auto rounded = Target::round(Target::near(values));
  if (any(lower_small | upper_small)) {
    if constexpr (sizeof rounded == sizeof(Halves) && Target::kSmallest == ToFloat16::kSmallest) {
      const Values back = widen(unhalve(rounded));
      underflow |= any((lower_small & (Longs)(back.lower != values.lower)) |
                       (upper_small & (Longs)(back.upper != values.upper)));
    } else {
      return false;
    }
  }
  write(results, rounded);
  return true;
}

template <typename Target, typename Sum>
std::int64_t finish_row(const FinishRow& given, bool& underflow) {
  using Bits = typename Target::Bits;
  const FinishRow row = given;  // of which the compiler knows that no store changes it
  const auto* const sums = static_cast<const Sum*>(row.sums);
  const auto* const before = static_cast<const Bits*>(row.before);
  auto* const results = static_cast<Bits*>(row.results);
  for (std::int64_t at = 0; at < row.columns; at += kStep) {
    const Values values = values_at(row, at, sums, before, Target::read_from);
    const Floats near = Target::near(values);
    const Words size = (Words)near & kMagnitude;
    if (any(where_at_least(size - Target::kLeast, Target::kMost - Target::kLeast))) [[unlikely]] {
      if (!finish_carefully<Target>(values, row.relu, results + at, underflow)) return at;
      continue;
    }
    const auto rounded = Target::round(near);
    write(results + at, row.relu ? relu_of_bits(rounded) : rounded);
  }
  return row.columns;
}

/// Into float64, where nothing is rounded.
template <typename Sum>
std::int64_t finish_as_doubles(const FinishRow& given, bool&) {
  const FinishRow row = given;
  const auto* const sums = static_cast<const Sum*>(row.sums);
  const auto* const before = static_cast<const double*>(row.before);
  auto* const results = static_cast<double*>(row.results);
  for (std::int64_t at = 0; at < row.columns; at += kStep) {
    Values values = values_at(row, at, sums, before, read_sums<double>);
    constexpr double kLargest = 0x1.fffffffffffffp1023;
    if (any(~((Longs)(magnitude(values.lower) <= kLargest) &
              (Longs)(magnitude(values.upper) <= kLargest)))) [[unlikely]]
      return at;
    if (row.relu) values = relu(values);
    write(results + at, values.lower);
    write(results + at + kStep / 2, values.upper);
  }
  return row.columns;
}

template <typename Sum>
Finish finisher_from(DType target) {
  switch (target) {
    case DType::float16:
      return finish_row<ToFloat16, Sum>;
    case DType::bfloat16:
      return finish_row<ToBFloat16, Sum>;
    case DType::float32:
      return finish_row<ToFloat32, Sum>;
    case DType::float64:
      return finish_as_doubles<Sum>;
    default:
      return nullptr;
  }
}

Finish finisher_of(DType sums, DType target) {
  if (sums == DType::float32) return finisher_from<float>(target);
  if (sums == DType::float64) return finisher_from<double>(target);
  return nullptr;
}

void stream(const std::byte* from, std::byte* to, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  const std::size_t lead = (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine;
  std::size_t at = lead < bytes ? lead : bytes;
  __builtin_memcpy(to, from, at);
  for (; at + kLine <= bytes; at += kLine) stream_line(from + at, to + at);
  __builtin_memcpy(to + at, from + at, bytes - at);
}
