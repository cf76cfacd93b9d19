// # The kernels themselves
// Included by each kernels_*.cpp alone, which are compiled with flags of their own. Everything is
// in an anonymous namespace and nothing of the standard library is instantiated: a function with
// external linkage that was compiled for AVX2 here could be the copy that the linker keeps for all.
#pragma once

#include <cstdint>

#include "kernels.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace npublas::simulator {
namespace {

#if defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kFloatCopies = 1;
#else
constexpr int kVectorBytes = 16;
constexpr int kFloatCopies = 2;
#endif

// Two vectors of columns per tile: with four rows that is eight sums, enough to hide the latency of
// the additions and few enough for 16 registers.
constexpr int kVectors = 2;
constexpr int kDoubles = kVectorBytes / 8;
constexpr int kFloatColumns = kVectors * kDoubles;
constexpr int kInts = kVectorBytes / 4;
constexpr int kIntegerColumns = kVectors * kInts;

using Doubles = double __attribute__((vector_size(kVectorBytes)));

inline Doubles load(const double* from) { return *reinterpret_cast<const Doubles*>(from); }

inline Doubles broadcast(const double* from) {
  Doubles value = kFloatCopies == 1 ? Doubles{} + *from : load(from);
#if defined(__SSE2__)
  // Keeps it in a register for its two uses. The compiler would rather load it twice, and with ten
  // loads instead of six per depth the loads are what the loop waits for.
  __asm__("" : "+x"(value));
#endif
  return value;
}

void float_tile(const double* a, const double* b, int depth, float* sums) {
  for (int group = 0; group < depth; group += kGroup) {
    Doubles exact[kTileRows][kVectors] = {};
    for (int k = 0; k < kGroup; ++k) {
      const Doubles left = load(b);
      const Doubles right = load(b + kDoubles);
#pragma GCC unroll 4
      for (int row = 0; row < kTileRows; ++row) {
        const Doubles value = broadcast(a + row * kFloatCopies);
        exact[row][0] += value * left;
        exact[row][1] += value * right;
      }
      a += kTileRows * kFloatCopies;
      b += kFloatColumns;
    }
    const double* const values = reinterpret_cast<const double*>(exact);
    for (int i = 0; i < kTileRows * kFloatColumns; ++i) sums[i] += float(values[i]);
  }
}

#if defined(__AVX2__)
using Ints = __m256i;
inline Ints add_pairs(Ints sum, Ints x, Ints y) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
}
inline Ints load_ints(const void* from) {
  return _mm256_load_si256(static_cast<const __m256i*>(from));
}
inline Ints broadcast_pair(const std::int16_t* from) {
  std::int32_t pair;
  __builtin_memcpy(&pair, from, 4);
  return _mm256_set1_epi32(pair);
}
#elif defined(__SSE2__)
using Ints = __m128i;
inline Ints add_pairs(Ints sum, Ints x, Ints y) { return _mm_add_epi32(sum, _mm_madd_epi16(x, y)); }
inline Ints load_ints(const void* from) {
  return _mm_load_si128(static_cast<const __m128i*>(from));
}
inline Ints broadcast_pair(const std::int16_t* from) {
  std::int32_t pair;
  __builtin_memcpy(&pair, from, 4);
  return _mm_set1_epi32(pair);
}
#endif

#if defined(__SSE2__)

void integer_tile(const std::int16_t* a, const std::int16_t* b, int depth, std::uint32_t* sums) {
  Ints* const out = reinterpret_cast<Ints*>(sums);
  Ints tile[kTileRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows * kVectors; ++i)
    tile[i / kVectors][i % kVectors] = load_ints(out + i);
  for (int k = 0; k < depth; k += 2) {
    const Ints left = load_ints(b);
    const Ints right = load_ints(b + 2 * kInts);
#pragma GCC unroll 4
    for (int row = 0; row < kTileRows; ++row) {
      const Ints value = broadcast_pair(a + 2 * row);
      tile[row][0] = add_pairs(tile[row][0], value, left);
      tile[row][1] = add_pairs(tile[row][1], value, right);
    }
    a += 2 * kTileRows;
    b += 2 * kIntegerColumns;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows * kVectors; ++i) out[i] = tile[i / kVectors][i % kVectors];
}

#else

// Left to the compiler: widening multiply-add of int16 on aarch64.
void integer_tile(const std::int16_t* a, const std::int16_t* b, int depth, std::uint32_t* sums) {
  for (int k = 0; k < depth; k += 2) {
    for (int row = 0; row < kTileRows; ++row) {
      const std::int32_t first = a[2 * row];
      const std::int32_t second = a[2 * row + 1];
      for (int column = 0; column < kIntegerColumns; ++column) {
        sums[row * kIntegerColumns + column] +=
            std::uint32_t(first * b[2 * column] + second * b[2 * column + 1]);
      }
    }
    a += 2 * kTileRows;
    b += 2 * kIntegerColumns;
  }
}

#endif

constexpr Kernels kernels(const char* name) {
  return {name, kFloatColumns, kFloatCopies, float_tile, kIntegerColumns, integer_tile};
}

}  // namespace
}  // namespace npublas::simulator
