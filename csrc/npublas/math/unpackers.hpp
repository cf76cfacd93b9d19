// # Unpackers
// The loops of unpacking (unpack.hpp), which are compiled once for each set of instructions. What
// they do is one thing: a *strip*, some rows of a few neighbouring *lines*, where a line is as many
// columns as make 64 bytes of the result. unpack.cpp cuts a target into strips, so that neither the
// surface's lines nor the target's leave the cache half used.
#pragma once

#include <cstddef>
#include <cstdint>

#include "npublas/base/cpu_features.hpp"
#include "npublas/base/dtype.hpp"

namespace npublas {

inline constexpr std::int64_t kLineBytes = 64;
/// Of a strip, at most.
inline constexpr std::int64_t kMostStripColumns = 2048;

/// Element (row, column) of the surfaces is at `row * row_step + column / 4 * group_step +
/// column % 4`, which both layouts are.
struct Strip {
  const std::uint32_t* main;  ///< bits of int32 or float32
  const std::uint32_t* a_low;
  const std::uint32_t* b_low;
  std::ptrdiff_t row_step, group_step;  ///< elements
  const void* of_rows;                  ///< of each row: int32 offset, or double scale
  const void* of_columns;
  const float* row_floats;  ///< the scales again, if they are powers of two and so are all of their
  const float* column_floats;  ///< products, normal floats; else null
  std::int64_t rows, lines;
  std::ptrdiff_t next;  ///< elements from the surfaces' first here to the first of the next strip
  std::byte* to;
  std::ptrdiff_t pitch;  ///< bytes from row to row; columns are neighbours
};

/// What was seen in all strips so far; each element of an array is of some of the columns.
struct alignas(64) SeenInStrips {
  static constexpr int kLanes = 8;
  std::uint32_t main[kLanes] = {}, a_low[kLanes] = {}, b_low[kLanes] = {};  ///< ORed
  std::uint32_t largest[kLanes] = {};  ///< magnitude of a result as float32
  bool underflow = false;
};

using UnpackStrip = void (*)(const Strip& strip, SeenInStrips& seen);

/// What becomes of a strip: stored; added; or streamed past the caches, if the machine can, to
/// where its lines are aligned.
enum class Way : std::uint8_t { store, add, stream };
/// `ordinary`: quantized, and no result but zero can be subnormal or infinite.
enum class SumsOf : std::uint8_t { integers, floats, floats_in_parts, quantized, ordinary };

/// Of one set of instructions.
struct Unpackers {
  /// Null if there is no such unpacking. Integers are streamed, and floats into float32.
  UnpackStrip (*of)(SumsOf sums, DType target, bool is_native, Way way);
  /// Streams the lines of a buffer to rows that begin anywhere in a line. Of each, `kLineBytes`
  /// before it hold what the call before left over, and get what this one leaves over. `is_first`:
  /// there was no call before, and the begin of a row is stored.
  void (*flush)(std::byte* buffer, std::ptrdiff_t buffer_pitch, std::byte* to,
                std::ptrdiff_t to_pitch, std::int64_t rows, std::int64_t lines, bool is_first);
  /// Waits until what was streamed can be seen by others.
  void (*finish_streaming)();
};

const Unpackers& unpackers_for(Isa isa);

// Where each is defined; `kPortableUnpackers` is NEON's, too.
extern const Unpackers kPortableUnpackers;
#if defined(__x86_64__)
extern const Unpackers kAvx2Unpackers, kAvx512Unpackers;
#endif

}  // namespace npublas
