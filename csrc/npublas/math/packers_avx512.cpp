// Compiled with -mavx512f and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/packers.hpp"

namespace npublas {
namespace {

constexpr int kWidth = 16;
using Vector = __m512;
using Halves = __m256i;
using Bytes = __m128i;
using Line = __m512i;

inline Vector load(const std::byte* from) { return _mm512_loadu_ps(from); }
inline void store(void* to, Vector x) { _mm512_storeu_ps(to, x); }
inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector broadcast(float x) { return _mm512_set1_ps(x); }
inline Vector add(Vector x, Vector y) { return _mm512_add_ps(x, y); }
inline Vector sub(Vector x, Vector y) { return _mm512_sub_ps(x, y); }
inline Vector mul(Vector x, Vector y) { return _mm512_mul_ps(x, y); }
inline Vector div(Vector x, Vector y) { return _mm512_div_ps(x, y); }
inline Vector min(Vector x, Vector y) { return _mm512_min_ps(x, y); }
inline Vector max(Vector x, Vector y) { return _mm512_max_ps(x, y); }
inline Vector magnitude(Vector x) { return _mm512_abs_ps(x); }
inline Vector max_bits(Vector x, Vector y) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(x), _mm512_castps_si512(y)));
}
inline Vector round(Vector x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline bool any_above(Vector x, float bound) {
  return _mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0;
}
inline Vector if_at_least(Vector size, Vector bound, Vector x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(size, bound, _CMP_GE_OQ), x);
}
inline Vector if_less(Vector size, Vector bound, Vector x, Vector otherwise) {
  return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(size, bound, _CMP_LT_OQ), x);
}
inline Vector count_if_at_least(Vector counts, Vector size, Vector bound) {
  const __m512i one = _mm512_set1_epi32(1), number = _mm512_castps_si512(counts);
  return _mm512_castsi512_ps(
      _mm512_mask_add_epi32(number, _mm512_cmp_ps_mask(size, bound, _CMP_GE_OQ), number, one));
}

inline Vector load_float16(const std::byte* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Vector load_bfloat16(const std::byte* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Vector load_float64(const std::byte* from) {
  const __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(from));
  const __m256 high = _mm512_cvtpd_ps(_mm512_loadu_pd(from + 64));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
/// Words of two 16 bits of x and of y, the first in the lower half.
inline Vector pair_of(__m256i x, __m256i y) {
  const __m512i order = _mm512_add_epi32(
      _mm512_set1_epi32(0x00200000),
      _mm512_mullo_epi32(_mm512_set1_epi32(0x00010001),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
  return _mm512_castsi512_ps(
      _mm512_permutex2var_epi16(_mm512_castsi256_si512(x), order, _mm512_castsi256_si512(y)));
}
inline Vector load_pairs(const std::byte* first, const std::byte* second) {
  return pair_of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)),
                 _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
}
/// Four rows of bytes that are neighbours, in quarters, as words of one byte of each.
inline __m512i words_of_quarters(__m512i rows) {
  const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i order = _mm512_add_epi32(
      _mm512_set1_epi32(0x30201000), _mm512_mullo_epi32(_mm512_set1_epi32(0x01010101), numbers));
  return _mm512_permutexvar_epi8(order, rows);
}
inline Vector load_quads(const std::byte* a, const std::byte* b, const std::byte* c,
                         const std::byte* d) {
  const auto bytes = [](const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };
  const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes(a)), bytes(b), 1);
  const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes(c)), bytes(d), 1);
  return _mm512_castsi512_ps(
      words_of_quarters(_mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1)));
}

inline Halves halves_of(Vector x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline void store_halves(std::uint16_t* to, Halves x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
}
inline Vector floats_of(Halves x) { return _mm512_cvtph_ps(x); }
/// Words of four int8, the first in the lowest byte.
inline Vector quad_of_bytes(const Vector* quotients) {
  const auto words = [&](int i) { return _mm512_cvtps_epi32(quotients[i]); };
  // Each quarter has four bytes of each quotient then.
  const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(words(0), words(1)),
                                           _mm512_packs_epi32(words(2), words(3)));
  const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  return _mm512_castsi512_ps(_mm512_shuffle_epi8(bytes, order));
}
inline Vector or_bits(Vector x, Vector y) { return _mm512_or_ps(x, y); }
inline Vector all_ones() { return _mm512_castsi512_ps(_mm512_set1_epi32(-1)); }
/// The smaller ones of x, and of magnitudes less one, as unsigned bits: zero is the largest then.
inline Vector min_less_one(Vector x, Vector magnitudes) {
  const __m512i less_one = _mm512_add_epi32(_mm512_castps_si512(magnitudes), _mm512_set1_epi32(-1));
  return _mm512_castsi512_ps(_mm512_min_epu32(_mm512_castps_si512(x), less_one));
}
/// Whether one of these is of a magnitude below `bound`.
inline bool any_less_one_below(Vector x, float bound) {
  const __m512i least =
      _mm512_sub_epi32(_mm512_castps_si512(_mm512_set1_ps(bound)), _mm512_set1_epi32(1));
  return _mm512_cmplt_epu32_mask(_mm512_castps_si512(x), least) != 0;
}
inline Vector broadcast_byte(std::uint8_t byte) {
  return _mm512_castsi512_ps(_mm512_set1_epi8(char(byte)));
}
/// Adds the four int8 of each word, once they are turned.
inline Vector add_bytes(Vector sums, Vector words, Vector turned) {
  const __m512i pairs =
      _mm512_maddubs_epi16(_mm512_set1_epi8(1), _mm512_castps_si512(_mm512_xor_ps(words, turned)));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(sums), _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))));
}

/// What is to be added to float16 for a power of two: its exponent, in both halves of a word.
inline Vector raise_by(Vector powers) {
  const __m512i exponents =
      _mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(powers), 23), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_slli_epi32(exponents, 10), _mm512_slli_epi32(exponents, 26)));
}
/// Adds to float16 that aren't zero. `smallest`: of the magnitudes so far, less one.
inline Vector raise_halves(Vector pairs, Vector raise, Vector& smallest) {
  const __m512i bits = _mm512_castps_si512(pairs), sign_less = _mm512_set1_epi16(0x7fff);
  const __m512i less_one =
      _mm512_add_epi16(_mm512_and_si512(bits, sign_less), _mm512_set1_epi16(-1));
  smallest = _mm512_castsi512_ps(_mm512_min_epu16(_mm512_castps_si512(smallest), less_one));
  return _mm512_castsi512_ps(_mm512_mask_add_epi16(bits, _mm512_test_epi16_mask(bits, sign_less),
                                                   bits, _mm512_castps_si512(raise)));
}
inline bool any_subnormal_half(Vector smallest) {
  return _mm512_cmplt_epu16_mask(_mm512_castps_si512(smallest), _mm512_set1_epi16(0x3ff)) != 0;
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
  const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(quotients[0]));
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
  const auto* const from = static_cast<const std::uint8_t*>(source);
  // Sums of unsigned bytes are what there is: of 128 more than each packed byte.
  const __m512i flip = _mm512_set1_epi8(char(turned ^ 0x80));
  __m512i sums = _mm512_setzero_si512(), any = _mm512_setzero_si512();
  std::int64_t d = 0;
  const auto note = [&](__m512i x) {
    any = _mm512_or_si512(any, x);
    sums =
        _mm512_add_epi64(sums, _mm512_sad_epu8(_mm512_xor_si512(x, flip), _mm512_setzero_si512()));
  };
  for (; d + 64 <= size; d += 64) {
    __builtin_prefetch(static_cast<const std::byte*>(ahead) + d);
    note(_mm512_loadu_si512(from + d));
  }
  std::int64_t counted = d;
  if (d < size) {
    const __mmask64 mask = ~std::uint64_t(0) >> (64 - (size - d));
    const __m512i x = _mm512_maskz_loadu_epi8(mask, from + d);
    any = _mm512_or_si512(any, x);
    sums = _mm512_add_epi64(sums,
                            _mm512_sad_epu8(_mm512_maskz_mov_epi8(mask, _mm512_xor_si512(x, flip)),
                                            _mm512_setzero_si512()));
    counted = size;
  }
  const auto sum = std::int64_t(_mm512_reduce_add_epi64(sums)) - 128 * counted;
  const auto bits = std::uint64_t(_mm512_reduce_or_epi64(any));
  std::uint8_t folded = 0;
  for (int i = 0; i < 8; ++i) folded |= std::uint8_t(bits >> (8 * i));
  return {std::int32_t(sum), folded};
}

/// Transposes 16 words of 16 lanes, and puts the pieces of lanes together: (64 / kPiece, 16,
/// kPiece) bytes.
template <int kPiece>
inline void transpose(Vector* r) {
  Vector t[16], u[16];
  // Within each quarter of a vector, squares of four: u[4g + j] has words 4g and on, quarter q
  // those of lane 4q + j.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const auto pairs = [&](int j) { return _mm512_castps_pd(t[i + j]); };
    u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs(0), pairs(2)));
    u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs(0), pairs(2)));
    u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs(1), pairs(3)));
    u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs(1), pairs(3)));
  }
  // Then squares of quarters: those that are neighbours in the end, of all q.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    constexpr int kWords = kPiece / 16;  // groups of four words of a lane in a piece
    const int lane = i % kWords * (4 / kWords), group = i / kWords * kWords;
    const auto part = [&](int k) { return u[4 * (group + k % kWords) + lane + k / kWords]; };
    const Vector low01 = _mm512_shuffle_f32x4(part(0), part(1), 0x44);
    const Vector high01 = _mm512_shuffle_f32x4(part(0), part(1), 0xee);
    const Vector low23 = _mm512_shuffle_f32x4(part(2), part(3), 0x44);
    const Vector high23 = _mm512_shuffle_f32x4(part(2), part(3), 0xee);
    const Vector of_q[4] = {
        _mm512_shuffle_f32x4(low01, low23, 0x88), _mm512_shuffle_f32x4(low01, low23, 0xdd),
        _mm512_shuffle_f32x4(high01, high23, 0x88), _mm512_shuffle_f32x4(high01, high23, 0xdd)};
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) r[4 * group + (4 * q + lane) * kWords / 4] = of_q[q];
  }
}

template <bool kStream>
inline void store_coded(std::byte* to, Vector x, Vector turned) {
  const __m512i bits = _mm512_castps_si512(_mm512_xor_ps(x, turned));
  if constexpr (kStream)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bits);
  else
    _mm512_storeu_si512(to, bits);
}

inline Line load_line(const std::byte* from) { return _mm512_loadu_si512(from); }
inline Line join_32(const std::byte* a, const std::byte* b) {
  return _mm512_inserti64x4(
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a))),
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)), 1);
}
inline Line join_16(const std::byte* a, const std::byte* b, const std::byte* c,
                    const std::byte* d) {
  const auto piece = [](const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };
  const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(piece(a)), piece(b), 1);
  const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(piece(c)), piece(d), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}
template <bool kStream>
inline void store_line(std::byte* to, Line line, std::uint8_t turned) {
  line = _mm512_xor_si512(line, _mm512_set1_epi8(char(turned)));
  if constexpr (kStream)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line);
  else
    _mm512_storeu_si512(to, line);
}
inline void copy_16(std::byte* to, const std::byte* from, std::uint8_t turned) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_xor_si128(bits, _mm_set1_epi8(char(turned))));
}
void fence() { _mm_sfence(); }

}  // namespace
}  // namespace npublas

#include "npublas/math/packers_rows.hpp"

namespace npublas {

constinit const Packers kAvx512Packers = packers();

}  // namespace npublas
#endif
