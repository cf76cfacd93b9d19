// Compiled with -mavx512f and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

typedef double Doubles __attribute__((vector_size(64)));
typedef std::int64_t Longs __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef std::uint32_t Words __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));

inline Doubles widen_lower(Floats floats) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(floats));
}
inline Doubles widen_upper(Floats floats) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(floats, 1));
}
inline Floats nearest(Doubles lower, Doubles upper) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lower)), _mm512_cvtpd_ps(upper),
                            1);
}
inline Doubles cut(Doubles bits, Longs last, Longs kept) {
  constexpr int kFirstOrSecondAndThird = 0xa8;
  return (Doubles)_mm512_ternarylogic_epi64((__m512i)bits, (__m512i)last, (__m512i)kept,
                                            kFirstOrSecondAndThird);
}
inline Halves halve(Floats floats) {
  return (Halves)_mm512_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT);
}
inline Floats unhalve(Halves halves) { return _mm512_cvtph_ps((__m256i)halves); }
typedef __mmask16 Mask;
inline Mask where_at_least(Words words, std::uint32_t bound) {
  return _mm512_cmpge_epu32_mask((__m512i)words, _mm512_set1_epi32(int(bound)));
}
inline Mask where_equal(Words words, std::uint32_t value) {
  return _mm512_cmpeq_epi32_mask((__m512i)words, _mm512_set1_epi32(int(value)));
}
inline Mask where_same(Floats x, Floats y) { return _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ); }
inline bool any(Mask mask) { return mask != 0; }
inline Words at_least(Words words, std::uint32_t bound) {
  return (Words)_mm512_movm_epi32(where_at_least(words, bound));
}
inline bool any(Words mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  const auto two = [step](const std::uint32_t* from) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + step)), 1);
  };
  return (Words)_mm512_inserti64x4(_mm512_castsi256_si512(two(group)), two(group + 2 * step), 1);
}
inline Doubles widen_lower_integers(Words words) {
  return _mm512_cvtepi32_pd(_mm512_castsi512_si256((__m512i)words));
}
inline Doubles widen_upper_integers(Words words) {
  return _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64((__m512i)words, 1));
}
inline bool any(Longs mask) { return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0; }

inline void stream_step(std::byte* to, Floats floats) {
  _mm512_stream_ps(reinterpret_cast<float*>(to), floats);
}
inline void stream_steps(std::byte* to, Halves lower, Halves upper) {
  _mm512_stream_si512(
      reinterpret_cast<__m512i*>(to),
      _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)lower), (__m256i)upper, 1));
}
inline void stream_line(const std::byte* from, std::byte* to) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}

#include "npublas/math/finishers_body.hpp"
#include "npublas/math/finishers_strips.hpp"

}  // namespace

constexpr Finishers kAvx512Finishers = {finisher_of, strip_finisher_of, stream};

}  // namespace npublas
#endif
