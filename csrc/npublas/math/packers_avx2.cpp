// Compiled with -mavx2 -mf16c (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/packers.hpp"

namespace npublas {
namespace {

constexpr int kWidth = 8;
using Vector = __m256;
using Halves = __m128i;
using Bytes = __m128i;
struct Line {
  __m256i low, high;
};

inline __m128i load_16(const std::byte* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
inline __m256i load_32(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline Vector load(const std::byte* from) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
}
inline void store(void* to, Vector x) { _mm256_storeu_ps(static_cast<float*>(to), x); }
inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector broadcast(float x) { return _mm256_set1_ps(x); }
inline Vector add(Vector x, Vector y) { return _mm256_add_ps(x, y); }
inline Vector sub(Vector x, Vector y) { return _mm256_sub_ps(x, y); }
inline Vector mul(Vector x, Vector y) { return _mm256_mul_ps(x, y); }
inline Vector div(Vector x, Vector y) { return _mm256_div_ps(x, y); }
inline Vector min(Vector x, Vector y) { return _mm256_min_ps(x, y); }
inline Vector max(Vector x, Vector y) { return _mm256_max_ps(x, y); }
inline Vector magnitude(Vector x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
inline Vector max_bits(Vector x, Vector y) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
inline Vector round(Vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline bool any_above(Vector x, float bound) {
  return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_GT_OQ)) != 0;
}
inline Vector if_at_least(Vector size, Vector bound, Vector x) {
  return _mm256_and_ps(_mm256_cmp_ps(size, bound, _CMP_GE_OQ), x);
}
inline Vector if_less(Vector size, Vector bound, Vector x, Vector otherwise) {
  return _mm256_blendv_ps(otherwise, x, _mm256_cmp_ps(size, bound, _CMP_LT_OQ));
}
inline Vector count_if_at_least(Vector counts, Vector size, Vector bound) {
  const __m256i all = _mm256_castps_si256(_mm256_cmp_ps(size, bound, _CMP_GE_OQ));
  return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(counts), all));
}

inline Vector load_float16(const std::byte* from) { return _mm256_cvtph_ps(load_16(from)); }
inline Vector load_bfloat16(const std::byte* from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(from)), 16));
}
inline Vector load_float64(const std::byte* from) {
  const auto four = [](const std::byte* at) {
    return _mm256_cvtpd_ps(_mm256_loadu_pd(reinterpret_cast<const double*>(at)));
  };
  return _mm256_insertf128_ps(_mm256_castps128_ps256(four(from)), four(from + 32), 1);
}
/// Words of two 16 bits of x and of y, the first in the lower half.
inline Vector pair_of(__m128i x, __m128i y) {
  const __m256i low = _mm256_castsi128_si256(_mm_unpacklo_epi16(x, y));
  return _mm256_castsi256_ps(_mm256_inserti128_si256(low, _mm_unpackhi_epi16(x, y), 1));
}
inline Vector load_pairs(const std::byte* first, const std::byte* second) {
  return pair_of(load_16(first), load_16(second));
}
inline Vector load_quads(const std::byte* a, const std::byte* b, const std::byte* c,
                         const std::byte* d) {
  const auto eight = [](const std::byte* from) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  };
  const __m128i ab = _mm_unpacklo_epi8(eight(a), eight(b));
  const __m128i cd = _mm_unpacklo_epi8(eight(c), eight(d));
  const __m256i low = _mm256_castsi128_si256(_mm_unpacklo_epi16(ab, cd));
  return _mm256_castsi256_ps(_mm256_inserti128_si256(low, _mm_unpackhi_epi16(ab, cd), 1));
}

inline Halves halves_of(Vector x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_halves(std::uint16_t* to, Halves x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x);
}
inline Vector floats_of(Halves x) { return _mm256_cvtph_ps(x); }
/// Words of four int8, the first in the lowest byte.
inline Vector quad_of_bytes(const Vector* quotients) {
  const auto words = [&](int i) { return _mm256_cvtps_epi32(quotients[i]); };
  // Each half has four bytes of each quotient then.
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(words(0), words(1)),
                                           _mm256_packs_epi32(words(2), words(3)));
  const __m256i order = _mm256_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703,
                                          0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703);
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(bytes, order));
}
inline Vector or_bits(Vector x, Vector y) { return _mm256_or_ps(x, y); }
inline Vector all_ones() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
/// The smaller ones of x, and of magnitudes less one, as unsigned bits: zero is the largest then.
inline Vector min_less_one(Vector x, Vector magnitudes) {
  const __m256i less_one = _mm256_add_epi32(_mm256_castps_si256(magnitudes), _mm256_set1_epi32(-1));
  return _mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(x), less_one));
}
/// Whether one of these is of a magnitude below `bound`.
inline bool any_less_one_below(Vector x, float bound) {
  const __m256i least =
      _mm256_sub_epi32(_mm256_castps_si256(_mm256_set1_ps(bound)), _mm256_set1_epi32(1));
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(bits, least), bits);
  return _mm256_movemask_epi8(at_least) != -1;
}
inline Vector broadcast_byte(std::uint8_t byte) {
  return _mm256_castsi256_ps(_mm256_set1_epi8(char(byte)));
}
/// Adds the four int8 of each word, once they are turned.
inline Vector add_bytes(Vector sums, Vector words, Vector turned) {
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_castps_si256(_mm256_xor_ps(words, turned)));
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(sums), _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}

/// What is to be added to float16 for a power of two: its exponent, in both halves of a word.
inline Vector raise_by(Vector powers) {
  const __m256i exponents =
      _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(powers), 23), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(
      _mm256_or_si256(_mm256_slli_epi32(exponents, 10), _mm256_slli_epi32(exponents, 26)));
}
/// Adds to float16 that aren't zero. `smallest`: of the magnitudes so far, less one.
inline Vector raise_halves(Vector pairs, Vector raise, Vector& smallest) {
  const __m256i bits = _mm256_castps_si256(pairs);
  const __m256i magnitudes = _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff));
  smallest = _mm256_castsi256_ps(_mm256_min_epu16(
      _mm256_castps_si256(smallest), _mm256_add_epi16(magnitudes, _mm256_set1_epi16(-1))));
  const __m256i is_zero = _mm256_cmpeq_epi16(magnitudes, _mm256_setzero_si256());
  return _mm256_castsi256_ps(
      _mm256_add_epi16(bits, _mm256_andnot_si256(is_zero, _mm256_castps_si256(raise))));
}
inline bool any_subnormal_half(Vector smallest) {
  const __m256i bits = _mm256_castps_si256(smallest);
  const __m256i normal = _mm256_cmpeq_epi16(_mm256_max_epu16(bits, _mm256_set1_epi16(0x3ff)), bits);
  return _mm256_movemask_epi8(normal) != -1;
}

/// Of 16 float16 of each row: the largest magnitudes so far, and the smallest less one.
inline void note_halves(const std::byte* from, std::int64_t stride, std::int64_t rows,
                        std::uint16_t* largest, std::uint16_t* smallest) {
  const auto at = [](auto* memory) { return reinterpret_cast<__m256i*>(memory); };
  __m256i most = _mm256_loadu_si256(at(largest)), least = _mm256_loadu_si256(at(smallest));
  for (std::int64_t row = 0; row < rows; ++row) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + row * stride));
    const __m256i magnitudes = _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff));
    most = _mm256_max_epu16(most, magnitudes);
    least = _mm256_min_epu16(least, _mm256_sub_epi16(magnitudes, _mm256_set1_epi16(1)));
  }
  _mm256_storeu_si256(at(largest), most);
  _mm256_storeu_si256(at(smallest), least);
}

inline Bytes no_bytes() { return _mm_setzero_si128(); }
inline Bytes store_bytes(std::int8_t* to, const Vector* quotients, Bytes any) {
  // Packing takes the halves of its operands in turn; the permutation puts them right.
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(quotients[0]), _mm256_cvtps_epi32(quotients[1])), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  return _mm_or_si128(any, bytes);
}
inline std::uint8_t all_bits(Bytes any) {
  std::uint8_t bytes[16], bits = 0;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), any);
  for (const std::uint8_t byte : bytes) bits |= byte;
  return bits;
}

ByteNote note_bytes(const void* source, std::int64_t size, std::uint8_t turned, const void* ahead) {
  const auto* const from = static_cast<const std::byte*>(source);
  // Sums of unsigned bytes are what there is: of 128 more than each packed byte.
  const __m256i flip = _mm256_set1_epi8(char(turned ^ 0x80));
  __m256i sums = _mm256_setzero_si256(), any = _mm256_setzero_si256();
  std::int64_t d = 0;
  for (; d + 32 <= size; d += 32) {
    if (d % 64 == 0) __builtin_prefetch(static_cast<const std::byte*>(ahead) + d);
    const __m256i x = load_32(from + d);
    any = _mm256_or_si256(any, x);
    sums =
        _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_xor_si256(x, flip), _mm256_setzero_si256()));
  }
  std::int64_t parts[4], sum = -128 * d;
  std::uint8_t bytes[32], bits = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), sums);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), any);
  for (const std::int64_t part : parts) sum += part;
  for (const std::uint8_t byte : bytes) bits |= byte;
  for (; d < size; ++d) {
    const auto byte = std::uint8_t(from[d]);
    sum += std::int8_t(std::uint8_t(byte ^ turned));
    bits |= byte;
  }
  return {std::int32_t(sum), bits};
}

/// Transposes 8 words of 8 lanes, and puts the pieces of lanes together: (32 / kPiece, 8, kPiece)
/// bytes.
template <int kPiece>
inline void transpose(Vector* r) {
  Vector t[8], u[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  // u[4g + j] has words 4g and on, of lane j, and then of lane 4 + j.
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    constexpr bool kWhole = kPiece == 32;
    const int first = kWhole ? i : i / 2 * 4 + i % 2 * 2;
    const Vector x = u[first], y = u[first + (kWhole ? 4 : 1)];
    const int to = kWhole ? i : i / 2 * 4 + i % 2;
    r[to] = _mm256_permute2f128_ps(x, y, 0x20);
    r[to + (kWhole ? 4 : 2)] = _mm256_permute2f128_ps(x, y, 0x31);
  }
}

template <bool kStream>
inline void store_coded(std::byte* to, Vector x, Vector turned) {
  const __m256i bits = _mm256_castps_si256(_mm256_xor_ps(x, turned));
  if constexpr (kStream)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
}

inline Line load_line(const std::byte* from) { return {load_32(from), load_32(from + 32)}; }
inline Line join_32(const std::byte* a, const std::byte* b) { return {load_32(a), load_32(b)}; }
inline Line join_16(const std::byte* a, const std::byte* b, const std::byte* c,
                    const std::byte* d) {
  return {_mm256_inserti128_si256(_mm256_castsi128_si256(load_16(a)), load_16(b), 1),
          _mm256_inserti128_si256(_mm256_castsi128_si256(load_16(c)), load_16(d), 1)};
}
template <bool kStream>
inline void store_line(std::byte* to, Line line, std::uint8_t turned) {
  const __m256i flip = _mm256_set1_epi8(char(turned));
  auto* const out = reinterpret_cast<__m256i*>(to);
  if constexpr (kStream) {
    _mm256_stream_si256(out, _mm256_xor_si256(line.low, flip));
    _mm256_stream_si256(out + 1, _mm256_xor_si256(line.high, flip));
  } else {
    _mm256_storeu_si256(out, _mm256_xor_si256(line.low, flip));
    _mm256_storeu_si256(out + 1, _mm256_xor_si256(line.high, flip));
  }
}
inline void copy_16(std::byte* to, const std::byte* from, std::uint8_t turned) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_xor_si128(load_16(from), _mm_set1_epi8(char(turned))));
}
void fence() { _mm_sfence(); }

}  // namespace
}  // namespace npublas

#include "npublas/math/packers_rows.hpp"

namespace npublas {

constinit const Packers kAvx2Packers = packers();

}  // namespace npublas
#endif
