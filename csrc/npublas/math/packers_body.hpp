// # The packers themselves
// Included (by way of packers_rows.hpp, its last part) by each packers_*.cpp of an instruction
// set alone, after its vectors of kWidth floats (`Vector`) and a few operations on them. Nothing of
// the standard library is instantiated here (cpu_features.hpp says why).
//
// A unit is 16 elements: 64 bytes of float32, 32 of float16, and the sums that are kept apart.
#pragma once

#include "npublas/math/packers.hpp"

namespace npublas {
namespace {

constexpr int kUnit = 16;
constexpr int kParts = kUnit / kWidth;
constexpr std::int64_t kStep = 32;  // coded lanes are filled up to it

#define NPUBLAS_INLINE inline __attribute__((always_inline))

// ## Coding

/// Calls `step(d, from)` for each unit, `from` being its elements of `Size` bytes: of the source,
/// or zeros where that has ended. Asks memory for as many bytes from `ahead` on.
template <int Size, typename Step>
NPUBLAS_INLINE void for_each_unit(const void* source, std::int64_t size, const void* ahead,
                                  Step step) {
  const auto* const from = static_cast<const std::byte*>(source);
  const auto* const later = static_cast<const std::byte*>(ahead);
  std::int64_t d = 0;
  for (; d + kUnit <= size; d += kUnit) {
    if (Size * kUnit % 64 == 0 || d * Size % 64 == 0) {
#pragma GCC unroll 2
      for (int i = 0; i < (Size * kUnit + 63) / 64; ++i)
        __builtin_prefetch(later + d * Size + 64 * i);
    }
    step(d, from + d * Size);
  }
  if (size % kStep == 0) return;
  std::byte rest[2][kUnit * Size] = {};
  __builtin_memcpy(rest[0], from + d * Size, std::size_t((size - d) * Size));
  for (int i = 0; d % kStep != 0 || i == 0; d += kUnit, ++i) step(d, rest[i]);
}

template <Vector (*read)(const std::byte*), int Size>
void widen(const void* from, std::int64_t size, float* to, const void* ahead) {
  for_each_unit<Size>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) store(to + d + i * kWidth, read(unit + i * kWidth * Size));
  });
}

std::uint32_t largest_float(const void* from, std::int64_t size) {
  Vector largest[kParts];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) largest[i] = zero();
  for_each_unit<4>(from, size, from, [&](std::int64_t, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      largest[i] = max_bits(largest[i], magnitude(load(unit + 4 * i * kWidth)));
  });
  std::uint32_t words[kUnit], all = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) store(words + i * kWidth, largest[i]);
  for (int i = 0; i < kUnit; ++i) all = words[i] > all ? words[i] : all;
  return all;
}

// Left to the compiler, which vectorises minima and maxima of 16 bits, and sums.
HalfRange range_of_halves(const void* source, std::int64_t size, const void* ahead) {
  constexpr std::int64_t kTogether = 512;
  std::uint16_t largest = 0, smallest = 0xffff;
  const auto* const from = static_cast<const std::byte*>(source);
  for (std::int64_t first = 0; first < size; first += kTogether) {
    const std::int64_t end = first + kTogether < size ? first + kTogether : size;
    for (std::int64_t d = first; d < end; d += 32)
      __builtin_prefetch(static_cast<const std::byte*>(ahead) + 2 * d);
    for (std::int64_t d = first; d < end; ++d) {
      std::uint16_t bits;
      __builtin_memcpy(&bits, from + 2 * d, 2);
      const std::uint16_t magnitude = bits & 0x7fff;
      const std::uint16_t less_one = std::uint16_t(magnitude - 1);
      largest = magnitude > largest ? magnitude : largest;
      smallest = less_one < smallest ? less_one : smallest;
    }
  }
  return {largest, smallest};
}

void halve(const void* from, std::int64_t size, float first, float second, std::uint16_t* to,
           const void* ahead) {
  const Vector s = broadcast(first), t = broadcast(second);
  for_each_unit<4>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      store_halves(to + d + i * kWidth, halves_of(mul(mul(load(unit + 4 * i * kWidth), s), t)));
  });
}

// Multiplying float16 by a power of two is adding to its exponent, but for zeros, and for subnormal
// numbers, of which there are few: once there was one, all is done again by way of float32.
void scale_halves(const void* from, std::int64_t size, float power, std::uint16_t* to,
                  const void* ahead) {
  const Vector s = broadcast(power), raise = raise_by(s);
  Vector smallest = all_ones();
  const auto* const source = static_cast<const std::byte*>(from);
  const auto raise_step = [&](std::int64_t d, const std::byte* step) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      store(to + d + 2 * i * kWidth, raise_halves(load(step + 4 * i * kWidth), raise, smallest));
  };
  std::int64_t d = 0;
  for (; d + kStep <= size; d += kStep) {
    __builtin_prefetch(static_cast<const std::byte*>(ahead) + 2 * d);
    raise_step(d, source + 2 * d);
  }
  if (d < size) {
    std::byte rest[2 * kStep] = {};
    __builtin_memcpy(rest, source + 2 * d, std::size_t(2 * (size - d)));
    raise_step(d, rest);
  }
  if (!any_subnormal_half(smallest)) return;
  for_each_unit<2>(from, size, from, [&](std::int64_t at, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      store_halves(to + at + i * kWidth, halves_of(mul(load_float16(unit + 2 * i * kWidth), s)));
  });
}

// What rounds to 11 significant bits and is at least 2^-14 then, is at least this. Such numbers are
// rounded alike by the conversion to float16, which has fewer bits only below 2^-14.
constexpr float kRoundsToNormal = 0x1p-14f - 0x1p-26f;

/// The two parts of numbers below 2^15, and what is lost of them. `raised` is what the low part is
/// rounded from: that is zero unless the magnitude is at least kRoundsToNormal.
struct Parts {
  Halves high, low;
  Vector raised, loss;
};

// Nothing is lost of what is at least this: what is left beside the high part has no bit below
// 2^-26 then, which is raised to 2^-14. Such are almost all numbers, and many a comparison is
// spared by having a look at the smallest of some.
constexpr float kLosesNothing = 0x1p-3f;

/// Where something was lost, something is likely to be lost again: the next of these are split the
/// long way at once. The bits are the same either way.
class Expectation {
 public:
  bool of_loss() { return left_ > 0 && left_-- > 0; }
  void note_loss() { left_ = kSplits; }

 private:
  static constexpr int kSplits = 15;
  int left_ = 0;
};
thread_local Expectation expectation;

template <bool kLossless>
NPUBLAS_INLINE Parts split_vector(Vector x, Vector size_of_x) {
  Parts parts;
  if constexpr (kLossless) {
    x = add(x, zero());  // or -0 would stay what it is
    parts.high = halves_of(x);
    parts.raised = mul(sub(x, floats_of(parts.high)), broadcast(0x1p12f));
    parts.low = halves_of(parts.raised);
    return parts;
  }
  const Vector bound = broadcast(kRoundsToNormal);
  parts.high = halves_of(if_at_least(size_of_x, bound, x));
  const Vector rest = sub(x, floats_of(parts.high));
  const Vector raised = mul(rest, broadcast(0x1p12f));
  parts.raised = magnitude(raised);
  parts.low = halves_of(if_at_least(parts.raised, bound, raised));
  // All that is left, if the low part is zero; 2^-10 of the element, if its high part is.
  parts.loss = magnitude(if_less(parts.raised, bound, rest,
                                 if_less(size_of_x, bound, mul(x, broadcast(0x1p-10f)), zero())));
  return parts;
}

/// Splits a lane. False if it is to be lossless and isn't: then what is noted is worth nothing.
template <bool kLossless>
NPUBLAS_INLINE bool split_lane(const void* from, std::int64_t size, float first, float second,
                               std::uint16_t* high, std::uint16_t* low, SplitNote& note,
                               const void* ahead) {
  const Vector s = broadcast(first), t = broadcast(second), large = broadcast(0x1p9f);
  Vector sizes[kParts], totals[kParts], largest[kParts], lows[kParts], counts[kParts];
  Vector smallest = all_ones();
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) sizes[i] = totals[i] = largest[i] = lows[i] = counts[i] = zero();
  for_each_unit<4>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Vector x = mul(mul(load(unit + 4 * i * kWidth), s), t);
      const Vector size_of_x = magnitude(x);
      const Parts parts = split_vector<kLossless>(x, size_of_x);
      store_halves(high + d + i * kWidth, parts.high);
      store_halves(low + d + i * kWidth, parts.low);
      sizes[i] = add(sizes[i], size_of_x);
      counts[i] = count_if_at_least(counts[i], size_of_x, large);
      if constexpr (kLossless) {
        lows[i] = or_bits(lows[i], parts.raised);
        smallest = min_less_one(smallest, size_of_x);
      } else {
        lows[i] = max_bits(lows[i], parts.raised);
        totals[i] = add(totals[i], parts.loss);
        largest[i] = max_bits(largest[i], parts.loss);
      }
    }
  });
  if (kLossless && any_less_one_below(smallest, kLosesNothing)) return false;
  float losses[kUnit], low_parts[kUnit];
  std::int32_t numbers[kUnit];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    store(note.sizes + i * kWidth, sizes[i]);
    store(note.totals + i * kWidth, totals[i]);
    store(losses + i * kWidth, largest[i]);
    store(low_parts + i * kWidth, magnitude(lows[i]));
    store(numbers + i * kWidth, counts[i]);
  }
  note.largest = 0;
  note.large = 0;
  note.any_low = false;
  for (int i = 0; i < kUnit; ++i) {
    note.largest = losses[i] > note.largest ? losses[i] : note.largest;
    note.large += numbers[i];
    note.any_low |= kLossless ? low_parts[i] != 0 : low_parts[i] >= kRoundsToNormal;
  }
  return true;
}

void split(const void* from, std::int64_t size, float first, float second, std::uint16_t* high,
           std::uint16_t* low, SplitNote& note, const void* ahead) {
  if (!expectation.of_loss()) {
    if (split_lane<true>(from, size, first, second, high, low, note, ahead)) return;
    expectation.note_loss();
  }
  split_lane<false>(from, size, first, second, high, low, note, ahead);
}

// Division is slow, so it is tried to do without: x · (1/scale) is within 1.5 · 2^-16 of the
// rounded quotient for quotients up to 128, so that both have the same nearest integer unless the
// product is near the middle of two. Then these 16 are divided.
constexpr float kSurelyNearest = 0.5f - 0x1p-15f;

constexpr bool can_be_inverted(float scale) { return scale >= 0x1p-100f && scale <= 0x1p100f; }

std::uint8_t quantize(const void* from, std::int64_t size, float scale, int limit, std::int8_t* to,
                      const void* ahead) {
  const bool divides = !can_be_inverted(scale);
  const Vector divisor = broadcast(scale), inverse = broadcast(1.0f / scale);
  const Vector top = broadcast(float(limit)), bottom = broadcast(-float(limit));
  Bytes any = no_bytes();
  for_each_unit<4>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
    Vector quotients[kParts], farthest = zero();
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Vector quotient = mul(load(unit + 4 * i * kWidth), inverse);
      quotients[i] = max(min(quotient, top), bottom);
      const Vector off = magnitude(sub(quotients[i], round(quotients[i])));
      farthest = max_bits(farthest, off);
    }
    if (__builtin_expect(divides || any_above(farthest, kSurelyNearest), false)) {
#pragma GCC unroll 4
      for (int i = 0; i < kParts; ++i)
        quotients[i] = max(min(div(load(unit + 4 * i * kWidth), divisor), top), bottom);
    }
    any = store_bytes(to + d, quotients, any);
  });
  return all_bits(any);
}

// ## Scattering

constexpr std::int64_t kLine = 64;

/// `kPieces` pieces of all lanes: with four, each line of a lane is read once and used up.
template <bool kStream, int kPieces>
NPUBLAS_INLINE void scatter_quads(const std::byte* const* lanes, std::int64_t count,
                                  std::int64_t at, std::byte* to, std::int64_t stride,
                                  std::uint8_t turned) {
  const std::int64_t quads = count / 4 * 4;
  for (std::int64_t i = 0; i < quads; i += 4) {
    const std::byte *const a = lanes[i] + at, *const b = lanes[i + 1] + at,
                           *const c = lanes[i + 2] + at, *const d = lanes[i + 3] + at;
#pragma GCC unroll 4
    for (int p = 0; p < kPieces; ++p)
      store_line<kStream>(to + p * stride + 16 * i,
                          join_16(a + 16 * p, b + 16 * p, c + 16 * p, d + 16 * p), turned);
  }
  for (std::int64_t i = quads; i < count; ++i)
    for (int p = 0; p < kPieces; ++p)
      copy_16(to + p * stride + 16 * i, lanes[i] + at + 16 * p, turned);
}

template <bool kStream>
void scatter_16_to(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces,
                   std::byte* to, std::int64_t stride, std::uint8_t turned) {
  std::int64_t p = 0;
  for (; p + 4 <= pieces; p += 4)
    scatter_quads<kStream, 4>(lanes, count, 16 * p, to + p * stride, stride, turned);
  for (; p < pieces; ++p)
    scatter_quads<kStream, 1>(lanes, count, 16 * p, to + p * stride, stride, turned);
}

template <bool kStream>
void scatter_32_to(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces,
                   std::byte* to, std::int64_t stride, std::uint8_t turned) {
  const std::int64_t pairs = count / 2 * 2;
  for (std::int64_t p = 0; p < pieces; ++p) {
    std::byte* const out = to + p * stride;
    const std::int64_t at = p * 32;
    for (std::int64_t i = 0; i < pairs; i += 2)
      store_line<kStream>(out + 32 * i, join_32(lanes[i] + at, lanes[i + 1] + at), turned);
    for (std::int64_t i = pairs; i < count; ++i) {
      copy_16(out + 32 * i, lanes[i] + at, turned);
      copy_16(out + 32 * i + 16, lanes[i] + at + 16, turned);
    }
  }
}

template <bool kStream>
void scatter_64_to(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces,
                   std::byte* to, std::int64_t stride, std::uint8_t turned) {
  for (std::int64_t p = 0; p < pieces; ++p)
    for (std::int64_t i = 0; i < count; ++i)
      store_line<kStream>(to + p * stride + kLine * i, load_line(lanes[i] + p * kLine), turned);
}

#define NPUBLAS_SCATTER(size)                                                                   \
  void scatter_##size(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces,   \
                      std::byte* to, std::int64_t stride, std::uint8_t turned, bool stream) {   \
    (stream ? scatter_##size##_to<true> : scatter_##size##_to<false>)(lanes, count, pieces, to, \
                                                                      stride, turned);          \
  }
NPUBLAS_SCATTER(16)
NPUBLAS_SCATTER(32)
NPUBLAS_SCATTER(64)
#undef NPUBLAS_SCATTER

}  // namespace
}  // namespace npublas
