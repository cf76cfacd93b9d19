// # Packers
// The loops of packing, once for each set of instructions: one table of functions, which are equal
// to the bit. `portable` is the specification (coding.hpp); the others come from packers_body.hpp.
//
//   transpose   rows in which lanes are neighbours  ->  lanes, each contiguous
//   widen       a contiguous lane of any float      ->  float32
//   halve, ...  a contiguous lane                   ->  the same, coded
//   scatter     coded lanes                         ->  a surface, in whole cache lines
//
// `ahead` is what will be read after: as many bytes of it as are read now are asked for meanwhile,
// since the next lane's memory is nothing that a processor could guess.
//
// A coded lane is as long as its source, and zeros up to a multiple of 32 elements. Sources need
// not be aligned to their elements.
#pragma once

#include <cstddef>
#include <cstdint>

namespace npublas {

/// What `split` notes of a lane. Element d belongs to sums d % 16, which are added by the caller.
struct SplitNote {
  float sizes[16];
  float totals[16];
  float largest;
  std::int32_t large;
  bool any_low;
};

/// The largest magnitude of float16 values as bits, and the smallest that isn't zero, less one.
struct HalfRange {
  std::uint16_t largest;
  std::uint16_t smallest_less_one;
};

struct ByteNote {
  std::int32_t sum;  ///< of the packed bytes
  std::uint8_t any;  ///< all bits of the source
};

struct Packers {
  /// Of `depth` rows, `stride` bytes apart, of `lanes` neighbours, to lanes `pitch` bytes apart.
  /// Writes up to a multiple of 64 bytes of each lane.
  using Transpose = void (*)(const void* from, std::ptrdiff_t stride, std::int64_t depth,
                             std::int64_t lanes, void* to, std::int64_t pitch);
  Transpose transpose_float32, transpose_float16, transpose_bfloat16, transpose_float64;  // float32
  Transpose transpose_halves, transpose_bytes;  // as they are

  using Widen = void (*)(const void* from, std::int64_t size, float* to, const void* ahead);
  Widen widen_float16, widen_bfloat16, widen_float64;

  std::uint32_t (*largest_float)(const void* from, std::int64_t size);
  HalfRange (*range_of_halves)(const void* from, std::int64_t size);
  /// `turned` is what the source was or'ed exclusively with to be packed.
  ByteNote (*note_bytes)(const void* from, std::int64_t size, std::uint8_t turned,
                         const void* ahead);

  /// Finite values times first · second, rounded to float16.
  void (*halve)(const void* from, std::int64_t size, float first, float second, std::uint16_t* to,
                const void* ahead);
  /// Finite float16 times a power of two that makes none of them larger than float16 is.
  void (*scale_halves)(const void* from, std::int64_t size, float power, std::uint16_t* to,
                       const void* ahead);
  /// Finite values times first · second, below 2^15 then, in two parts.
  void (*split)(const void* from, std::int64_t size, float first, float second, std::uint16_t* high,
                std::uint16_t* low, SplitNote& note, const void* ahead);
  /// Finite values. All bits of the result are or'ed.
  std::uint8_t (*quantize)(const void* from, std::int64_t size, float scale, int limit,
                           std::int8_t* to, const void* ahead);

  /// Pieces of so many bytes of `count` lanes: piece p of lane i goes to
  /// `to` + p · piece_stride + i · bytes, or'ed exclusively with `turned`. `stream`: past the
  /// cache; `to` and the stride are multiples of 64 then.
  using Scatter = void (*)(const std::byte* const* lanes, std::int64_t count, std::int64_t pieces,
                           std::byte* to, std::int64_t piece_stride, std::uint8_t turned,
                           bool stream);
  Scatter scatter_16, scatter_32, scatter_64;
  /// What was streamed is seen by everybody after this.
  void (*fence)();
};

extern const Packers kPortablePackers;
extern const Packers kNeonPackers;    // aarch64 only
extern const Packers kAvx2Packers;    // x86-64 only
extern const Packers kAvx512Packers;  // x86-64 only

/// Those of the instructions that are in use.
const Packers& packers_in_use();

}  // namespace npublas
