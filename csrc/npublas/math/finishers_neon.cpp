// NEON is the baseline of aarch64, so this needs no flags; it is empty on other machines.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/finishers.hpp"

namespace npublas {
namespace {

typedef float64x2_t Doubles;
typedef int64x2_t Longs;
typedef float32x4_t Floats;
typedef uint32x4_t Words;
typedef uint16x4_t Halves;

inline Doubles widen_lower(Floats floats) { return vcvt_f64_f32(vget_low_f32(floats)); }
inline Doubles widen_upper(Floats floats) { return vcvt_high_f64_f32(floats); }
inline Floats nearest(Doubles lower, Doubles upper) {
  return vcvt_high_f32_f64(vcvt_f32_f64(lower), upper);
}
inline Doubles cut(Doubles bits, Longs last, Longs kept) {
  return (Doubles)(((Longs)bits | last) & kept);
}
inline Halves halve(Floats floats) { return vreinterpret_u16_f16(vcvt_f16_f32(floats)); }
inline Floats unhalve(Halves halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }
inline bool any_at_least(Words words, std::uint32_t bound) { return vmaxvq_u32(words) >= bound; }
inline bool any(Longs mask) { return (mask[0] | mask[1]) != 0; }

// Cores such as the Cortex-A76 find out by themselves that lines are written whole.
inline void stream_line(const std::byte* from, std::byte* to) { __builtin_memcpy(to, from, 64); }

#include "npublas/math/finishers_body.hpp"

}  // namespace

constexpr Finishers kNeonFinishers = {finisher_of, stream};

}  // namespace npublas
#endif
