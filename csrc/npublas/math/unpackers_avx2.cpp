// Compiled with -mavx2 and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/pack.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {
namespace {

constexpr int kUnit = 4;
typedef std::uint32_t Words __attribute__((vector_size(16)));
typedef std::uint32_t Wide __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));

inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t) {
  return (Words)_mm_loadu_si128(reinterpret_cast<const __m128i*>(group));
}
/// Unit 0 or 1.
inline Words part(Wide wide, int unit) {
  return unit == 0 ? (Words)_mm256_castsi256_si128((__m256i)wide)
                   : (Words)_mm256_extracti128_si256((__m256i)wide, 1);
}
inline Wide load_wide_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  return (Wide)_mm256_set_m128i((__m128i)load_groups(group + step, step),
                                (__m128i)load_groups(group, step));
}
inline Doubles broadcast(double x) { return _mm256_set1_pd(x); }
inline Doubles load_doubles(const void* from) {
  return _mm256_loadu_pd(static_cast<const double*>(from));
}
inline void store_doubles(void* to, Doubles doubles) {
  _mm256_storeu_pd(static_cast<double*>(to), doubles);
}
inline Doubles widen_float(Words words) { return _mm256_cvtps_pd((__m128)words); }
inline Doubles widen_integer(Words words) { return _mm256_cvtepi32_pd((__m128i)words); }
inline Words narrow(Doubles doubles) { return (Words)_mm256_cvtpd_ps(doubles); }
inline Wide join(const Words (&words)[2]) {
  return (Wide)_mm256_set_m128i((__m128i)words[1], (__m128i)words[0]);
}
inline bool any(Words mask) { return !_mm_testz_si128((__m128i)mask, (__m128i)mask); }
inline bool any(Wide mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
/// True if a result below float32's normal numbers isn't what it was rounded from.
inline bool lost(Doubles total, Doubles result) {
  const auto mask = (__m256i)((result != total) & (result < 0x1p-126) & (result > -0x1p-126));
  return !_mm256_testz_si256(mask, mask);
}

inline void stream_line(const std::byte* from, std::byte* to) {
  const auto* const parts = reinterpret_cast<const __m256i*>(from);
  const __m256i lower = _mm256_loadu_si256(parts), upper = _mm256_loadu_si256(parts + 1);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), lower);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + 1, upper);
}
inline void copy_line(const std::byte* from, std::byte* to) {
  const auto* const parts = reinterpret_cast<const __m256i*>(from);
  const __m256i lower = _mm256_loadu_si256(parts), upper = _mm256_loadu_si256(parts + 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), lower);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to) + 1, upper);
}
inline void stream_wide(std::byte* to, Wide wide) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)wide);
}
void finish_streaming() { _mm_sfence(); }

#include "npublas/math/unpackers_body.hpp"

}  // namespace

constexpr Unpackers kAvx2Unpackers = {unpack_strip_of, flush, finish_streaming};

}  // namespace npublas
#endif
