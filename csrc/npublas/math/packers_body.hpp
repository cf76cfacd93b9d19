// # The packers themselves
// Included by each packers_*.cpp of an instruction set alone, after its vectors of kWidth floats
// (`Vector`) and a few operations on them. Nothing of the standard library is instantiated here
// (cpu_features.hpp says why).
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

// ## Transposing
// In squares of kWidth lanes and as many words of 32 bits, each one float, or two or four elements
// of 16 or 8 bits that are neighbours along the depth. A row of words comes from a Reader.

struct ReadFloat32 {
  static constexpr int kRows = 1, kSize = 4;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t) { return load(from); }
};
struct ReadFloat16 {
  static constexpr int kRows = 1, kSize = 2;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t) {
    return load_float16(from);
  }
};
struct ReadBfloat16 {
  static constexpr int kRows = 1, kSize = 2;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t) {
    return load_bfloat16(from);
  }
};
struct ReadFloat64 {
  static constexpr int kRows = 1, kSize = 8;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t) {
    return load_float64(from);
  }
};
struct ReadHalves {
  static constexpr int kRows = 2, kSize = 2;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t stride) {
    return load_pairs(from, from + stride);
  }
};
struct ReadBytes {
  static constexpr int kRows = 4, kSize = 1;
  static NPUBLAS_INLINE Vector read(const std::byte* from, std::ptrdiff_t stride) {
    return load_quads(from, from + stride, from + 2 * stride, from + 3 * stride);
  }
};

template <typename Reader>
NPUBLAS_INLINE void transpose_square(const std::byte* from, std::ptrdiff_t stride, std::byte* to,
                                     std::int64_t pitch, std::int64_t lanes) {
  Vector square[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i)
    square[i] = Reader::read(from + i * Reader::kRows * stride, stride);
  transpose(square);
  if (lanes >= kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) store(to + i * pitch, square[i]);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i)
      if (i < lanes) store(to + i * pitch, square[i]);
  }
}

// Rows that are a power of two apart share a few sets of a cache, which then holds no more than
// some ten of them. So each line of a row is read once and whole, into a block without gaps, and
// the squares are taken from there. Memory is asked for rows that come later, since no prefetcher
// of a processor follows such strides.
constexpr std::int64_t kRowsAhead = 24;

template <typename Reader>
void transpose_lanes(const void* source, std::ptrdiff_t stride, std::int64_t depth,
                     std::int64_t lanes, void* target, std::int64_t pitch) {
  constexpr std::int64_t kRows = kWidth * Reader::kRows, kSize = Reader::kSize;
  constexpr std::int64_t kBlockLanes = 256 / (kSize < 4 ? kSize : 4);
  alignas(64) std::byte block[kRows][kBlockLanes * kSize];
  const auto* const from = static_cast<const std::byte*>(source);
  auto* const to = static_cast<std::byte*>(target);
  for (std::int64_t first = 0; first < lanes; first += kBlockLanes) {
    const std::int64_t columns = lanes - first < kBlockLanes ? lanes - first : kBlockLanes;
    for (std::int64_t d = 0, at = 0; d < depth; d += kRows, at += 4 * kWidth) {
      const std::int64_t rows = depth - d < kRows ? depth - d : kRows;
      for (std::int64_t row = 0; row < kRows; ++row) {
        if (row >= rows) {
          __builtin_memset(block[row], 0, sizeof block[row]);
          continue;
        }
        const std::byte* const line = from + (d + row) * stride + first * kSize;
        if (d + row + kRowsAhead < depth)
          for (std::int64_t i = 0; i < columns * kSize; i += 64)
            __builtin_prefetch(line + kRowsAhead * stride + i, 0, 2);
        if (columns == kBlockLanes)
          __builtin_memcpy(block[row], line, kBlockLanes * kSize);
        else
          __builtin_memcpy(block[row], line, std::size_t(columns * kSize));
      }
      for (std::int64_t lane = 0; lane < columns; lane += kWidth)
        transpose_square<Reader>(block[0] + lane * kSize, kBlockLanes * kSize,
                                 to + (first + lane) * pitch + at, pitch, columns - lane);
    }
  }
}

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
HalfRange range_of_halves(const void* source, std::int64_t size) {
  std::uint16_t largest = 0, smallest = 0xffff;
  const auto* const from = static_cast<const std::byte*>(source);
  for (std::int64_t d = 0; d < size; ++d) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, from + 2 * d, 2);
    const std::uint16_t magnitude = bits & 0x7fff;
    const std::uint16_t less_one = std::uint16_t(magnitude - 1);
    largest = magnitude > largest ? magnitude : largest;
    smallest = less_one < smallest ? less_one : smallest;
  }
  return {largest, smallest};
}

void halve(const void* from, std::int64_t size, float first, float second, std::uint16_t* to,
           const void* ahead) {
  const Vector s = broadcast(first), t = broadcast(second);
  for_each_unit<4>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      store_halves(to + d + i * kWidth, mul(mul(load(unit + 4 * i * kWidth), s), t));
  });
}

void scale_halves(const void* from, std::int64_t size, float power, std::uint16_t* to,
                  const void* ahead) {
  const Vector s = broadcast(power);
  for_each_unit<2>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      store_halves(to + d + i * kWidth, mul(load_float16(unit + 2 * i * kWidth), s));
  });
}

// What rounds to 11 significant bits and is at least 2^-14 then, is at least this. Such numbers are
// rounded alike by the conversion to float16, which has fewer bits only below 2^-14.
constexpr float kRoundsToNormal = 0x1p-14f - 0x1p-26f;

void split(const void* from, std::int64_t size, float first, float second, std::uint16_t* high,
           std::uint16_t* low, SplitNote& note, const void* ahead) {
  const Vector s = broadcast(first), t = broadcast(second);
  const Vector bound = broadcast(kRoundsToNormal), large = broadcast(0x1p9f);
  const Vector up = broadcast(0x1p12f), tenth = broadcast(0x1p-10f);
  Vector sizes[kParts], totals[kParts], largest[kParts], lows[kParts], counts[kParts];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) sizes[i] = totals[i] = largest[i] = lows[i] = counts[i] = zero();
  for_each_unit<4>(from, size, ahead, [&](std::int64_t d, const std::byte* unit) {
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Vector x = mul(mul(load(unit + 4 * i * kWidth), s), t);
      const Vector size_of_x = magnitude(x);
      const Vector kept = store_halves(high + d + i * kWidth, if_at_least(size_of_x, bound, x));
      const Vector rest = sub(x, kept);
      const Vector raised = mul(rest, up);
      const Vector size_of_raised = magnitude(raised);
      const Vector kept_low =
          store_halves(low + d + i * kWidth, if_at_least(size_of_raised, bound, raised));
      // All that is left, if the low part is zero; 2^-10 of the element, if its high part is.
      const Vector loss = magnitude(
          if_less(size_of_raised, bound, rest, if_less(size_of_x, bound, mul(x, tenth), zero())));
      lows[i] = max_bits(lows[i], magnitude(kept_low));
      sizes[i] = add(sizes[i], size_of_x);
      totals[i] = add(totals[i], loss);
      largest[i] = max_bits(largest[i], loss);
      counts[i] = count_if_at_least(counts[i], size_of_x, large);
    }
  });
  float losses[kUnit], low_parts[kUnit];
  std::int32_t numbers[kUnit];
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    store(note.sizes + i * kWidth, sizes[i]);
    store(note.totals + i * kWidth, totals[i]);
    store(losses + i * kWidth, largest[i]);
    store(low_parts + i * kWidth, lows[i]);
    store(numbers + i * kWidth, counts[i]);
  }
  note.largest = 0;
  note.large = 0;
  note.any_low = false;
  for (int i = 0; i < kUnit; ++i) {
    note.largest = losses[i] > note.largest ? losses[i] : note.largest;
    note.large += numbers[i];
    note.any_low |= low_parts[i] != 0;
  }
}

// Division is slow, so it is tried to do without: x · (1/scale) is within 1.5 · 2^-16 of the
// rounded quotient for quotients up to 128, so that both have the same nearest integer unless the
// product is near the middle of two. Then these 16 are divided.
constexpr float kSurelyNearest = 0.5f - 0x1p-15f;

std::uint8_t quantize(const void* from, std::int64_t size, float scale, int limit, std::int8_t* to,
                      const void* ahead) {
  const bool divides = !(scale >= 0x1p-100f && scale <= 0x1p100f);
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

constexpr Packers packers() {
  return {.transpose_float32 = transpose_lanes<ReadFloat32>,
          .transpose_float16 = transpose_lanes<ReadFloat16>,
          .transpose_bfloat16 = transpose_lanes<ReadBfloat16>,
          .transpose_float64 = transpose_lanes<ReadFloat64>,
          .transpose_halves = transpose_lanes<ReadHalves>,
          .transpose_bytes = transpose_lanes<ReadBytes>,
          .widen_float16 = widen<load_float16, 2>,
          .widen_bfloat16 = widen<load_bfloat16, 2>,
          .widen_float64 = widen<load_float64, 8>,
          .largest_float = largest_float,
          .range_of_halves = range_of_halves,
          .note_bytes = note_bytes,
          .halve = halve,
          .scale_halves = scale_halves,
          .split = split,
          .quantize = quantize,
          .scatter_16 = scatter_16,
          .scatter_32 = scatter_32,
          .scatter_64 = scatter_64,
          .fence = fence};
}

}  // namespace
}  // namespace npublas
