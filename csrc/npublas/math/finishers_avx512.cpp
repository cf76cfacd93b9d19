// Compiled with -mavx512f and its like (CMakeLists.txt), and empty on other machines.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

inline void halve(const float* floats, std::uint16_t* halves) {
  for (int i = 0; i < kFinishedTogether; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(floats + i), _MM_FROUND_TO_NEAREST_INT));
}
inline void unhalve(const std::uint16_t* halves, float* floats) {
  for (int i = 0; i < kFinishedTogether; i += 16)
    _mm512_storeu_ps(
        floats + i,
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + i))));
}

#include "npublas/math/finishers_body.hpp"

}  // namespace

Finish finisher_avx512(DType sums, DType target) { return finisher(sums, target); }

}  // namespace npublas
#endif
