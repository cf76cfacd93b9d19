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
inline Words at_least(Words words, std::uint32_t bound) {
  return vcgeq_u32(words, vdupq_n_u32(bound));
}
typedef Words Mask;
inline Mask where_at_least(Words words, std::uint32_t bound) { return at_least(words, bound); }
inline Mask where_equal(Words words, std::uint32_t value) { return (Words)(words == value); }
inline Mask where_same(Floats x, Floats y) { return (Words)(x == y); }
inline bool any(Words mask) { return vmaxvq_u32(mask) != 0; }
inline Words load_groups(const std::uint32_t* group, std::ptrdiff_t) {
  return vreinterpretq_u32_u8(vld1q_u8(reinterpret_cast<const std::uint8_t*>(group)));
}
inline Doubles widen_lower_integers(Words words) {
  return vcvtq_f64_s64(vmovl_s32(vreinterpret_s32_u32(vget_low_u32(words))));
}
inline Doubles widen_upper_integers(Words words) {
  return vcvtq_f64_s64(vmovl_high_s32(vreinterpretq_s32_u32(words)));
}
inline bool any(Longs mask) { return (mask[0] | mask[1]) != 0; }

// Cores such as the Cortex-A76 find out by themselves that lines are written whole.
inline void stream_line(const std::byte* from, std::byte* to) { __builtin_memcpy(to, from, 64); }
template <typename Results>
inline void stream_steps(std::byte* to, Results lower, Results upper) {
  __builtin_memcpy(to, &lower, sizeof lower);
  __builtin_memcpy(to + sizeof lower, &upper, sizeof upper);
}

#include "npublas/math/finishers_body.hpp"
#include "npublas/math/finishers_strips.hpp"

}  // namespace

constexpr Finishers kNeonFinishers = {finisher_of, strip_finisher_of, stream};

}  // namespace npublas
#endif
