// Compiled with -mavx2 and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

typedef double Doubles __attribute__((vector_size(32)));
typedef std::int64_t Longs __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef std::uint32_t Words __attribute__((vector_size(32)));
typedef std::uint16_t Halves __attribute__((vector_size(16)));

inline Doubles widen_lower(Floats floats) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(floats));
}
inline Doubles widen_upper(Floats floats) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(floats, 1));
}
inline Floats nearest(Doubles lower, Doubles upper) {
  return _mm256_set_m128(_mm256_cvtpd_ps(upper), _mm256_cvtpd_ps(lower));
}
inline Doubles cut(Doubles bits, Longs last, Longs kept) {
  return (Doubles)(((Longs)bits | last) & kept);
}
inline Halves halve(Floats floats) {
  return (Halves)_mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT);
}
inline Floats unhalve(Halves halves) { return _mm256_cvtph_ps((__m128i)halves); }
inline Words at_least(Words words, std::uint32_t bound) {
  constexpr std::uint32_t kSign = 0x80000000u;  // AVX2 compares integers with signs only
  return (Words)_mm256_cmpgt_epi32((__m256i)(words + kSign),
                                   _mm256_set1_epi32(int((bound - 1) + kSign)));
}
typedef Words Mask;
inline Mask where_at_least(Words words, std::uint32_t bound) { return at_least(words, bound); }
inline Mask where_equal(Words words, std::uint32_t value) { return (Words)(words == value); }
inline Mask where_same(Floats x, Floats y) { return (Words)(x == y); }
inline bool any(Words mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  return (Words)_mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group + step)),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(group)));
}
inline Doubles widen_lower_integers(Words words) {
  return _mm256_cvtepi32_pd(_mm256_castsi256_si128((__m256i)words));
}
inline Doubles widen_upper_integers(Words words) {
  return _mm256_cvtepi32_pd(_mm256_extracti128_si256((__m256i)words, 1));
}
inline bool any(Longs mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }

inline void stream_steps(std::byte* to, Floats lower, Floats upper) {
  _mm256_stream_ps(reinterpret_cast<float*>(to), lower);
  _mm256_stream_ps(reinterpret_cast<float*>(to) + 8, upper);
}
inline void stream_steps(std::byte* to, Halves lower, Halves upper) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_set_m128i((__m128i)upper, (__m128i)lower));
}
inline void stream_line(const std::byte* from, std::byte* to) {
  const auto* const parts = reinterpret_cast<const __m256i*>(from);
  const __m256i lower = _mm256_loadu_si256(parts), upper = _mm256_loadu_si256(parts + 1);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), lower);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, upper);
}

#include "npublas/math/finishers_body.hpp"
#include "npublas/math/finishers_strips.hpp"

}  // namespace

constexpr Finishers kAvx2Finishers = {finisher_of, strip_finisher_of, stream};

}  // namespace npublas
#endif
