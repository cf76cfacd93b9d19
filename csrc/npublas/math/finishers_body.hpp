// # The body of the finishers
// Included by one file for each set of instructions, after it has defined `halve` and `unhalve`,
// which convert between float32 and float16. Plain loops of one thing each, which the compiler
// makes vectors of. Nothing here has external linkage, and nothing of the standard library is
// instantiated: the linker must not find the copy that was compiled for other machines.

constexpr int kMany = kFinishedTogether;

inline std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
inline std::uint64_t bits_of(double x) { return __builtin_bit_cast(std::uint64_t, x); }

/// A double as one of float32's bits, none of which is lost that a rounding to fewer needs: the
/// last one is set if any below it is ("round to odd"). Of a normal float32, that is exact then.
inline float odd(double value) {
  constexpr std::uint64_t kBelow = (std::uint64_t(1) << 29) - 1;
  const std::uint64_t bits = bits_of(value);
  const std::uint64_t last = ((bits & kBelow) + kBelow) & (kBelow + 1);
  return float(__builtin_bit_cast(double, (bits | last) & ~kBelow));
}
inline float odd(float value) { return value; }

struct ToFloat16 {
  using Bits = std::uint16_t;
  static constexpr double kLargest = 65504, kSmallest = 0;  // and flagged below
  template <typename Value>
  static void round(const Value* values, Bits* results, bool& underflow) {
    float floats[kMany], back[kMany];
    for (int i = 0; i < kMany; ++i) floats[i] = odd(values[i]);
    halve(floats, results);
    unhalve(results, back);
    int lost = 0;
    for (int i = 0; i < kMany; ++i)
      lost |= int(__builtin_fabs(double(values[i])) < 0x1p-14) & int(Value(back[i]) != values[i]);
    underflow |= lost != 0;
  }
  static void values(const Bits* bits, double* values) {
    float floats[kMany];
    unhalve(bits, floats);
    for (int i = 0; i < kMany; ++i) values[i] = floats[i];
  }
};

struct ToBFloat16 {
  using Bits = std::uint16_t;
  static constexpr double kLargest = 0x1.fep127, kSmallest = 0x1p-126;
  template <typename Value>
  static void round(const Value* values, Bits* results, bool&) {
    float floats[kMany];
    for (int i = 0; i < kMany; ++i) floats[i] = odd(values[i]);
    for (int i = 0; i < kMany; ++i) {
      const std::uint32_t bits = bits_of(floats[i]);
      results[i] = Bits((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
  }
  static void values(const Bits* bits, double* values) {
    for (int i = 0; i < kMany; ++i)
      values[i] = __builtin_bit_cast(float, std::uint32_t(bits[i]) << 16);
  }
};

template <typename T>
struct To {
  using Bits = T;
  static constexpr double kLargest = sizeof(T) == 8 ? 0x1.fffffffffffffp1023 : 0x1.fffffep127;
  static constexpr double kSmallest = sizeof(T) == 8 ? 0 : 0x1p-126;
  template <typename Value>
  static void round(const Value* values, Bits* results, bool&) {
    for (int i = 0; i < kMany; ++i) results[i] = T(values[i]);
  }
  static void values(const Bits* bits, double* values) {
    for (int i = 0; i < kMany; ++i) values[i] = bits[i];
  }
};

/// Neither NaN nor too large for the type, nor subnormal.
template <typename Target, typename Value>
bool are_ordinary(const Value* values) {
  int others = 0;
  for (int i = 0; i < kMany; ++i) {
    const double size = __builtin_fabs(double(values[i]));
    others |= int(!(size <= Target::kLargest)) | (int(size < Target::kSmallest) & int(size != 0));
  }
  return others == 0;
}

template <typename Target, typename Sum>
bool finish_chunk(const FinishChunk& chunk, void* results, bool& underflow) {
  using Bits = typename Target::Bits;
  const auto* const sums = static_cast<const Sum*>(chunk.sums);
  auto* const rounded = static_cast<Bits*>(results);
  if (chunk.alpha == 1 && chunk.beta == 0 && !chunk.bias && !chunk.relu) {
    if (!are_ordinary<Target>(sums)) return false;
    Target::round(sums, rounded, underflow);
    return true;
  }
  double values[kMany];
  for (int i = 0; i < kMany; ++i) values[i] = chunk.alpha * double(sums[i]);
  if (chunk.beta != 0) {
    double before[kMany];
    Target::values(static_cast<const Bits*>(chunk.before), before);
    for (int i = 0; i < kMany; ++i) values[i] += chunk.beta * before[i];
  }
  if (chunk.bias)
    for (int i = 0; i < kMany; ++i) values[i] += chunk.bias[i];
  if (!are_ordinary<Target>(values)) return false;
  if (chunk.relu) {
    for (int i = 0; i < kMany; ++i) {  // as a mask: signs are as good as random
      const std::uint64_t keep = 0u - std::uint64_t(!(values[i] < 0));
      values[i] = __builtin_bit_cast(double, bits_of(values[i]) & keep);
    }
  }
  Target::round(values, rounded, underflow);
  return true;
}

template <typename Target>
Finish finisher_from(DType sums) {
  if (sums == DType::float32) return finish_chunk<Target, float>;
  if (sums == DType::float64) return finish_chunk<Target, double>;
  return nullptr;
}

Finish finisher(DType sums, DType target) {
  switch (target) {
    case DType::float16:
      return finisher_from<ToFloat16>(sums);
    case DType::bfloat16:
      return finisher_from<ToBFloat16>(sums);
    case DType::float32:
      return finisher_from<To<float>>(sums);
    case DType::float64:
      return finisher_from<To<double>>(sums);
    default:
      return nullptr;
  }
}
