// Compiled with -mavx2 and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

inline void halve(const float* floats, std::uint16_t* halves) {
  for (int i = 0; i < kFinishedTogether; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(floats + i), _MM_FROUND_TO_NEAREST_INT));
}
inline void unhalve(const std::uint16_t* halves, float* floats) {
  for (int i = 0; i < kFinishedTogether; i += 8)
    _mm256_storeu_ps(
        floats + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
}

#include "npublas/math/finishers_body.hpp"

}  // namespace

Finish finisher_avx2(DType sums, DType target) { return finisher(sums, target); }

}  // namespace npublas
#endif
