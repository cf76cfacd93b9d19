// # Unpackers for every machine
// Vectors of 16 bytes, which the compiler makes of SSE2 and of NEON alike.
#include <cstddef>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "npublas/math/pack.hpp"
#include "npublas/math/unpackers.hpp"

namespace npublas {
namespace {

constexpr int kUnit = 4;
typedef std::uint32_t Words __attribute__((vector_size(16)));
using Wide = Words;
typedef std::int32_t Integers __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t TwoIntegers __attribute__((vector_size(8)));
typedef float TwoFloats __attribute__((vector_size(8)));
typedef double TwoDoubles __attribute__((vector_size(16)));
typedef std::int64_t TwoMasks __attribute__((vector_size(16)));

struct Doubles {
  TwoDoubles lower, upper;
};
inline Doubles operator+(const Doubles& x, const Doubles& y) {
  return {x.lower + y.lower, x.upper + y.upper};
}
inline Doubles operator*(const Doubles& x, const Doubles& y) {
  return {x.lower * y.lower, x.upper * y.upper};
}

inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t) {
  Words words;
  __builtin_memcpy(&words, group, sizeof words);
  return words;
}
inline Words part(Wide wide, int) { return wide; }
inline Wide load_wide_groups(const std::uint32_t* group, std::ptrdiff_t step) {
  return load_groups(group, step);
}
inline Doubles broadcast(double x) { return {TwoDoubles{x, x}, TwoDoubles{x, x}}; }
inline Doubles load_doubles(const void* from) {
  Doubles doubles;
  __builtin_memcpy(&doubles, from, sizeof doubles);
  return doubles;
}
inline void store_doubles(void* to, const Doubles& doubles) {
  __builtin_memcpy(to, &doubles, sizeof doubles);
}
inline Doubles widen_float(Words words) {
  const auto floats = reinterpret_cast<Floats>(words);
  return {__builtin_convertvector((TwoFloats{floats[0], floats[1]}), TwoDoubles),
          __builtin_convertvector((TwoFloats{floats[2], floats[3]}), TwoDoubles)};
}
inline Doubles widen_integer(Words words) {
  const auto integers = reinterpret_cast<Integers>(words);
  return {__builtin_convertvector((TwoIntegers{integers[0], integers[1]}), TwoDoubles),
          __builtin_convertvector((TwoIntegers{integers[2], integers[3]}), TwoDoubles)};
}
inline Words narrow(const Doubles& x) {
  const TwoFloats lower = __builtin_convertvector(x.lower, TwoFloats);
  const TwoFloats upper = __builtin_convertvector(x.upper, TwoFloats);
  return reinterpret_cast<Words>(Floats{lower[0], lower[1], upper[0], upper[1]});
}
inline Wide join(const Words (&words)[1]) { return words[0]; }
inline bool any(Words mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }

inline TwoMasks lost(TwoDoubles total, TwoDoubles result) {
  return (result != total) & (result < 0x1p-126) & (result > -0x1p-126);
}
/// True if a result below float32's normal numbers isn't what it was rounded from.
inline bool lost(const Doubles& total, const Doubles& result) {
  const TwoMasks all = lost(total.lower, result.lower) | lost(total.upper, result.upper);
  return (all[0] | all[1]) != 0;
}

inline void stream_line(const std::byte* from, std::byte* to) {
#if defined(__SSE2__)
  for (int i = 0; i < kLineBytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
#else  // cores such as the Cortex-A76 find out by themselves that lines are written whole
  __builtin_memcpy(to, from, kLineBytes);
#endif
}
inline void copy_line(const std::byte* from, std::byte* to) {
  __builtin_memcpy(to, from, kLineBytes);
}
inline void stream_wide(std::byte* to, Wide wide) {
#if defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)wide);
#else
  __builtin_memcpy(to, &wide, sizeof wide);
#endif
}
void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

#include "npublas/math/unpackers_body.hpp"

}  // namespace

constexpr Unpackers kPortableUnpackers = {unpack_strip_of, flush, finish_streaming};

}  // namespace npublas
