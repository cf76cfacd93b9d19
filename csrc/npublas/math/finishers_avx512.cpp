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
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lower)),
                            _mm512_cvtpd_ps(upper), 1);
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
inline bool any_at_least(Words words, std::uint32_t bound) {
  return _mm512_cmpge_epu32_mask((__m512i)words, _mm512_set1_epi32(int(bound))) != 0;
}
inline bool any(Longs mask) { return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0; }

inline void stream_line(const std::byte* from, std::byte* to) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}

#include "npublas/math/finishers_body.hpp"

}  // namespace

constexpr Finishers kAvx512Finishers = {finisher_of, stream};

}  // namespace npublas
#endif
