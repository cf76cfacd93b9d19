// # Packers
// The loops of packing, once for each set of instructions: one table of functions, which are equal
// to the bit. `portable` is the specification (coding.hpp); the others come from packers_body.hpp.
//
//   widen            a contiguous lane of any float      ->  float32
//   halve, ...       a contiguous lane                   ->  the same, coded
//   scatter          coded lanes                         ->  a surface, in whole cache lines
//   collect          rows in which lanes are neighbours  ->  a panel that fits the cache
//   halve_rows, ...  a panel                             ->  a surface
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
struct HalfRanges {  ///< of 16 lanes
  std::uint16_t largest[16];
  std::uint16_t smallest_less_one[16];
};

struct ByteNote {
  std::int32_t sum;  ///< of the packed bytes
  std::uint8_t any;  ///< all bits of the source
};

/// A few lanes of rows in which lanes are neighbours, and how they are collected.
struct Rows {
  const std::byte* from;  ///< lane 0, depth 0; neighbours have no gaps
  std::ptrdiff_t stride;  ///< bytes between rows
  std::int64_t depth, lanes;
  std::int64_t more;  ///< bytes of each row that are going to be collected after these
};

/// Collected lanes: blocks of 64 bytes of lanes (16 float32, 32 float16, 64 bytes), one after the
/// other, with as many lines as there are rows, and more up to whole pieces of coded lanes.
struct Panel {
  static constexpr std::int64_t kMostLanes = 256;
  const std::byte* data;  ///< of 16 lanes
  std::int64_t next;      ///< bytes to the next 16
};

/// Where coded lanes go that come from a panel: pieces of `piece` bytes (16, 32 or 64), piece p of
/// lane i to `to` + p · piece_stride + i · lane_stride. `pieces` of each are written, 64 bytes at
/// most.
struct Put {
  std::int64_t piece, count, pieces;
  std::byte* to;
  std::int64_t piece_stride, lane_stride;
  std::uint8_t turned;
  bool stream;
};

/// What `split_rows` adds to of 16 lanes; as SplitNote, but with [sum][lane].
struct SplitNotes {
  float sizes[16][16];
  float totals[16][16];
  float largest[16];
  std::int32_t large[16];
  bool any_low;
};

struct Packers {
  using Widen = void (*)(const void* from, std::int64_t size, float* to, const void* ahead);
  Widen widen_float16, widen_bfloat16, widen_float64;

  std::uint32_t (*largest_float)(const void* from, std::int64_t size);
  HalfRange (*range_of_halves)(const void* from, std::int64_t size, const void* ahead);
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

  // What follows has no portable variant (null): the lanes are gathered one by one instead.

  // Rows `begin` to `end` go to a panel, of which `padded` lines are one block. Lanes that lack to
  // a whole block are zeros.

  /// Floats of any type as float32, and the largest magnitudes of the lanes, as bits, so far.
  using CollectFloats = void (*)(const Rows& rows, std::int64_t begin, std::int64_t end,
                                 std::int64_t padded, std::byte* panel, std::uint32_t* largest);
  CollectFloats collect_float32, collect_float16, collect_bfloat16, collect_float64;
  /// Float16 as they are.
  void (*collect_halves)(const Rows& rows, std::int64_t begin, std::int64_t end,
                         std::int64_t padded, std::byte* panel, HalfRanges* ranges);
  /// Bytes as they are, and all their bits or'ed. Lanes that lack are `padding`.
  std::uint8_t (*collect_bytes)(const Rows& rows, std::int64_t begin, std::int64_t end,
                                std::int64_t padded, std::byte* panel, std::uint8_t padding);

  // Of one or two blocks of a panel, as Put says; factors and scales are one of each lane, and so
  // are sums, which are added to.
  void (*halve_rows)(const Panel& panel, const float* first, const float* second, const Put& put);
  void (*scale_rows)(const Panel& panel, const float* powers, const Put& put);
  void (*copy_rows_of_halves)(const Panel& panel, const Put& put);
  void (*split_rows)(const Panel& panel, const float* first, const float* second, const Put& put,
                     std::byte* low, SplitNotes& notes);
  std::uint8_t (*quantize_rows)(const Panel& panel, const float* scales, int limit, const Put& put);
  void (*copy_rows_of_bytes)(const Panel& panel, const Put& put, std::int32_t* sums);
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
