// NEON is the baseline of aarch64, so this needs no flags; it is empty on other machines.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "npublas/math/packers.hpp"

namespace npublas {
namespace {

constexpr int kWidth = 4;
using Vector = float32x4_t;
using Halves = float16x4_t;
using Bytes = uint8x16_t;
struct Line {
  uint8x16_t pieces[4];
};

// By way of bytes, whose loads ask for no alignment.
inline uint8x16_t load_16(const std::byte* from) {
  return vld1q_u8(reinterpret_cast<const std::uint8_t*>(from));
}
inline uint8x8_t load_8(const std::byte* from) {
  return vld1_u8(reinterpret_cast<const std::uint8_t*>(from));
}

inline Vector load(const std::byte* from) { return vreinterpretq_f32_u8(load_16(from)); }
inline void store(void* to, Vector x) {
  vst1q_u8(static_cast<std::uint8_t*>(to), vreinterpretq_u8_f32(x));
}
inline Vector zero() { return vdupq_n_f32(0); }
inline Vector broadcast(float x) { return vdupq_n_f32(x); }
inline Vector add(Vector x, Vector y) { return vaddq_f32(x, y); }
inline Vector sub(Vector x, Vector y) { return vsubq_f32(x, y); }
inline Vector mul(Vector x, Vector y) { return vmulq_f32(x, y); }
inline Vector div(Vector x, Vector y) { return vdivq_f32(x, y); }
inline Vector min(Vector x, Vector y) { return vminq_f32(x, y); }
inline Vector max(Vector x, Vector y) { return vmaxq_f32(x, y); }
inline Vector magnitude(Vector x) { return vabsq_f32(x); }
inline Vector max_bits(Vector x, Vector y) {
  return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(x), vreinterpretq_s32_f32(y)));
}
inline Vector round(Vector x) { return vrndnq_f32(x); }
inline bool any_above(Vector x, float bound) { return vmaxvq_f32(x) > bound; }
inline Vector if_at_least(Vector size, Vector bound, Vector x) {
  return vreinterpretq_f32_u32(vandq_u32(vcgeq_f32(size, bound), vreinterpretq_u32_f32(x)));
}
inline Vector if_less(Vector size, Vector bound, Vector x, Vector otherwise) {
  return vbslq_f32(vcltq_f32(size, bound), x, otherwise);
}
inline Vector count_if_at_least(Vector counts, Vector size, Vector bound) {
  return vreinterpretq_f32_u32(vsubq_u32(vreinterpretq_u32_f32(counts), vcgeq_f32(size, bound)));
}

inline Vector load_float16(const std::byte* from) {
  return vcvt_f32_f16(vreinterpret_f16_u8(load_8(from)));
}
inline Vector load_bfloat16(const std::byte* from) {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(load_8(from)), 16));
}
inline Vector load_float64(const std::byte* from) {
  return vcombine_f32(vcvt_f32_f64(vreinterpretq_f64_u8(load_16(from))),
                      vcvt_f32_f64(vreinterpretq_f64_u8(load_16(from + 16))));
}
inline Vector load_pairs(const std::byte* first, const std::byte* second) {
  const uint16x4_t low = vreinterpret_u16_u8(load_8(first));
  const uint16x4_t high = vreinterpret_u16_u8(load_8(second));
  return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(low, high), vzip2_u16(low, high)));
}
inline Vector load_quads(const std::byte* a, const std::byte* b, const std::byte* c,
                         const std::byte* d) {
  const auto four = [](const std::byte* from) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, from, 4);
    return vreinterpret_u8_u32(vdup_n_u32(bits));
  };
  const uint16x4_t ab = vreinterpret_u16_u8(vzip1_u8(four(a), four(b)));
  const uint16x4_t cd = vreinterpret_u16_u8(vzip1_u8(four(c), four(d)));
  return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(ab, cd), vzip2_u16(ab, cd)));
}

inline Halves halves_of(Vector x) { return vcvt_f16_f32(x); }
inline Vector floats_of(Halves x) { return vcvt_f32_f16(x); }
inline void store_halves(std::uint16_t* to, Halves x) { vst1_u16(to, vreinterpret_u16_f16(x)); }
/// Words of two float16, the first in the lower half.
inline Vector pair_of(Halves x, Halves y) {
  const uint16x4_t low = vreinterpret_u16_f16(x);
  const uint16x4_t high = vreinterpret_u16_f16(y);
  return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(low, high), vzip2_u16(low, high)));
}
/// Words of four int8, the first in the lowest byte.
inline Vector quad_of_bytes(const Vector* quotients) {
  const auto word = [&](int i) { return vreinterpretq_u32_s32(vcvtnq_s32_f32(quotients[i])); };
  // Each is inserted above the bits of those before it, and keeps those.
  const uint32x4_t low = vsliq_n_u32(word(0), word(1), 8);
  return vreinterpretq_f32_u32(vsliq_n_u32(vsliq_n_u32(low, word(2), 16), word(3), 24));
}
inline Vector or_bits(Vector x, Vector y) {
  return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(x), vreinterpretq_u32_f32(y)));
}
inline Vector all_ones() { return vreinterpretq_f32_u32(vdupq_n_u32(~0u)); }
/// The smaller ones of x, and of magnitudes less one, as unsigned bits: zero is the largest then.
inline Vector min_less_one(Vector x, Vector magnitudes) {
  const uint32x4_t less_one = vsubq_u32(vreinterpretq_u32_f32(magnitudes), vdupq_n_u32(1));
  return vreinterpretq_f32_u32(vminq_u32(vreinterpretq_u32_f32(x), less_one));
}
/// Whether one of these is of a magnitude below `bound`.
inline bool any_less_one_below(Vector x, float bound) {
  return vminvq_u32(vreinterpretq_u32_f32(x)) < __builtin_bit_cast(std::uint32_t, bound) - 1;
}
inline Vector broadcast_byte(std::uint8_t byte) { return vreinterpretq_f32_u8(vdupq_n_u8(byte)); }
/// Adds the four int8 of each word, once they are turned.
inline Vector add_bytes(Vector sums, Vector words, Vector turned) {
  const int8x16_t bytes =
      vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_f32(words), vreinterpretq_u8_f32(turned)));
  return vreinterpretq_f32_s32(vpadalq_s16(vreinterpretq_s32_f32(sums), vpaddlq_s8(bytes)));
}

/// What is to be added to float16 for a power of two: its exponent, in both halves of a word.
inline Vector raise_by(Vector powers) {
  const uint32x4_t exponents =
      vsubq_u32(vshrq_n_u32(vreinterpretq_u32_f32(powers), 23), vdupq_n_u32(127));
  return vreinterpretq_f32_u32(vorrq_u32(vshlq_n_u32(exponents, 10), vshlq_n_u32(exponents, 26)));
}
/// Adds to float16 that aren't zero. `smallest`: of the magnitudes so far, less one.
inline Vector raise_halves(Vector pairs, Vector raise, Vector& smallest) {
  const uint16x8_t bits = vreinterpretq_u16_f32(pairs), sign_less = vdupq_n_u16(0x7fff);
  const uint16x8_t less_one = vsubq_u16(vandq_u16(bits, sign_less), vdupq_n_u16(1));
  smallest = vreinterpretq_f32_u16(vminq_u16(vreinterpretq_u16_f32(smallest), less_one));
  const uint16x8_t added = vandq_u16(vtstq_u16(bits, sign_less), vreinterpretq_u16_f32(raise));
  return vreinterpretq_f32_u16(vaddq_u16(bits, added));
}
inline bool any_subnormal_half(Vector smallest) {
  return vminvq_u16(vreinterpretq_u16_f32(smallest)) < 0x3ff;
}

/// Of 16 float16 of each row: the largest magnitudes so far, and the smallest less one.
inline void note_halves(const std::byte* from, std::int64_t stride, std::int64_t rows,
                        std::uint16_t* largest, std::uint16_t* smallest) {
  for (int i = 0; i < 16; i += 8) {
    uint16x8_t most = vld1q_u16(largest + i), least = vld1q_u16(smallest + i);
    for (std::int64_t row = 0; row < rows; ++row) {
      const uint16x8_t bits = vreinterpretq_u16_u8(load_16(from + row * stride + 2 * i));
      const uint16x8_t magnitudes = vandq_u16(bits, vdupq_n_u16(0x7fff));
      most = vmaxq_u16(most, magnitudes);
      least = vminq_u16(least, vsubq_u16(magnitudes, vdupq_n_u16(1)));
    }
    vst1q_u16(largest + i, most);
    vst1q_u16(smallest + i, least);
  }
}

inline Bytes no_bytes() { return vdupq_n_u8(0); }
inline Bytes store_bytes(std::int8_t* to, const Vector* quotients, Bytes any) {
  const auto words = [&](int i) {
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(quotients[i])),
                        vqmovn_s32(vcvtnq_s32_f32(quotients[i + 1])));
  };
  const int8x16_t bytes = vcombine_s8(vqmovn_s16(words(0)), vqmovn_s16(words(2)));
  vst1q_s8(to, bytes);
  return vorrq_u8(any, vreinterpretq_u8_s8(bytes));
}
inline std::uint8_t all_bits(Bytes any) {
  std::uint8_t bytes[16], bits = 0;
  vst1q_u8(bytes, any);
  for (const std::uint8_t byte : bytes) bits |= byte;
  return bits;
}

ByteNote note_bytes(const void* source, std::int64_t size, std::uint8_t turned, const void* ahead) {
  const auto* const from = static_cast<const std::byte*>(source);
  const uint8x16_t flip = vdupq_n_u8(turned);
  int32x4_t sums = vdupq_n_s32(0);
  uint8x16_t any = vdupq_n_u8(0);
  std::int64_t d = 0;
  for (; d + 16 <= size; d += 16) {
    if (d % 64 == 0) __builtin_prefetch(static_cast<const std::byte*>(ahead) + d);
    const uint8x16_t x = load_16(from + d);
    any = vorrq_u8(any, x);
    sums = vpadalq_s16(sums, vpaddlq_s8(vreinterpretq_s8_u8(veorq_u8(x, flip))));
  }
  std::int32_t sum = vaddvq_s32(sums);
  std::uint8_t bits = all_bits(any);
  for (; d < size; ++d) {
    const auto byte = std::uint8_t(from[d]);
    sum += std::int8_t(std::uint8_t(byte ^ turned));
    bits |= byte;
  }
  return {sum, bits};
}

/// Transposes 4 words of 4 lanes, of which each makes a piece of 16 bytes.
template <int kPiece>
inline void transpose(Vector* r) {
  static_assert(kPiece == 16);
  const auto pairs = [](Vector x) { return vreinterpretq_f64_f32(x); };
  const auto words = [](float64x2_t x) { return vreinterpretq_f32_f64(x); };
  const Vector a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
  const Vector c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
  r[0] = words(vtrn1q_f64(pairs(a), pairs(c)));
  r[1] = words(vtrn1q_f64(pairs(b), pairs(d)));
  r[2] = words(vtrn2q_f64(pairs(a), pairs(c)));
  r[3] = words(vtrn2q_f64(pairs(b), pairs(d)));
}

template <bool>
inline void store_coded(std::byte* to, Vector x, Vector turned) {
  vst1q_u8(reinterpret_cast<std::uint8_t*>(to),
           veorq_u8(vreinterpretq_u8_f32(x), vreinterpretq_u8_f32(turned)));
}

inline Line load_line(const std::byte* from) {
  return {load_16(from), load_16(from + 16), load_16(from + 32), load_16(from + 48)};
}
inline Line join_32(const std::byte* a, const std::byte* b) {
  return {load_16(a), load_16(a + 16), load_16(b), load_16(b + 16)};
}
inline Line join_16(const std::byte* a, const std::byte* b, const std::byte* c,
                    const std::byte* d) {
  return {load_16(a), load_16(b), load_16(c), load_16(d)};
}
// There are no vector stores past the cache that help here: four stores one after the other make a
// whole line, and the Cortex-A76 stops allocating after some such lines by itself.
template <bool>
inline void store_line(std::byte* to, Line line, std::uint8_t turned) {
  const uint8x16_t flip = vdupq_n_u8(turned);
  auto* const out = reinterpret_cast<std::uint8_t*>(to);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) vst1q_u8(out + 16 * i, veorq_u8(line.pieces[i], flip));
}
inline void copy_16(std::byte* to, const std::byte* from, std::uint8_t turned) {
  vst1q_u8(reinterpret_cast<std::uint8_t*>(to), veorq_u8(load_16(from), vdupq_n_u8(turned)));
}
void fence() {}

}  // namespace
}  // namespace npublas

#include "npublas/math/packers_rows.hpp"

namespace npublas {

constinit const Packers kNeonPackers = packers();

}  // namespace npublas
#endif
