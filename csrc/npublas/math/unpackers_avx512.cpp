// Compiled with -mavx512f and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/pack.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {
namespace {

constexpr int kUnit = 8;
typedef std::uint32_t Words __attribute__((vector_size(32)));
typedef std::uint32_t Wide __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  const auto load = [](const std::uint32_t* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };
  return (Words)_mm256_inserti128_si256(_mm256_castsi128_si256(load(group)), load(group + step), 1);
}
/// Unit 0 or 1.
inline Words part(Wide wide, int unit) {
  return unit == 0 ? (Words)_mm512_castsi512_si256((__m512i)wide)
                   : (Words)_mm512_extracti64x4_epi64((__m512i)wide, 1);
}
inline Wide load_wide_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  return (Wide)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)load_groups(group, step)),
                                  (__m256i)load_groups(group + 2 * step, step), 1);
}
inline Doubles broadcast(double x) { return _mm512_set1_pd(x); }
inline Doubles load_doubles(const void* from) { return _mm512_loadu_pd(from); }
inline void store_doubles(void* to, Doubles doubles) { _mm512_storeu_pd(to, doubles); }
inline Doubles widen_float(Words words) { return _mm512_cvtps_pd((__m256)words); }
inline Doubles widen_integer(Words words) { return _mm512_cvtepi32_pd((__m256i)words); }
inline Words narrow(Doubles doubles) { return (Words)_mm512_cvtpd_ps(doubles); }
inline Wide join(const Words (&words)[2]) {
  return (Wide)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)words[0]), (__m256i)words[1], 1);
}
inline bool any(Words mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
inline bool any(Wide mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
/// True if a result below float32's normal numbers isn't what it was rounded from.
inline bool lost(Doubles total, Doubles result) {
  const __mmask8 small =
      _mm512_cmp_pd_mask(_mm512_abs_pd(result), _mm512_set1_pd(0x1p-126), _CMP_LT_OQ);
  return _mm512_mask_cmp_pd_mask(small, result, total, _CMP_NEQ_OQ) != 0;
}

inline void stream_line(const std::byte* from, std::byte* to) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}
inline void copy_line(const std::byte* from, std::byte* to) {
  _mm512_storeu_si512(to, _mm512_loadu_si512(from));
}
inline void stream_wide(std::byte* to, Wide wide) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)wide);
}
void finish_streaming() { _mm_sfence(); }

#include "npublas/math/unpackers_body.hpp"

}  // namespace

constexpr Unpackers kAvx512Unpackers = {unpack_strip_of, flush, finish_streaming};

}  // namespace npublas
#endif
