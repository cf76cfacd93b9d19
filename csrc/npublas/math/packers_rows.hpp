// # Packers of rows in which lanes are neighbours
// The second half of packers_body.hpp. Rows are collected, coded and transposed, in this order:
// what is coded is half as large or less, and two float16 or four int8 of a lane make a word, of
// which a square is transposed in registers.
#pragma once

#include "npublas/math/packers_body.hpp"

namespace npublas {
namespace {

// ## Collecting
// No prefetcher of a processor follows rows that are pages apart. And rows that are a power of two
// apart share a few sets of a cache, which then holds no more than some ten of them: so each line
// is used up at once, and not much is asked for ahead.
constexpr std::int64_t kBytesAhead = 8192;

NPUBLAS_INLINE void ask_ahead(const Rows& rows, std::int64_t d, std::int64_t bytes) {
  std::int64_t row = d + kBytesAhead / (bytes < 64 ? 64 : bytes), wanted = bytes;
  const std::byte* line = rows.from;
  if (row >= rows.depth) {  // the first rows of the next lanes
    row -= rows.depth;
    line += bytes;
    wanted = bytes < rows.more ? bytes : rows.more;
    if (row >= rows.depth) return;
  }
  line += row * rows.stride;
  for (std::int64_t i = 0; i < wanted; i += kLine) __builtin_prefetch(line + i, 0, 2);
}

template <Vector (*read)(const std::byte*), int Size>
void collect_floats(const Rows& rows, std::int64_t begin, std::int64_t end, std::int64_t padded,
                    std::byte* panel, std::uint32_t* largest) {
  constexpr std::int64_t kBlock = kUnit * Size;  // bytes of a row
  constexpr std::int64_t kRows = 4;
  const std::int64_t blocks = (rows.lanes + kUnit - 1) / kUnit;
  const std::int64_t block_bytes = padded * kUnit * 4;
  for (std::int64_t d = begin; d < end; d += kRows) {
    const std::int64_t count = end - d < kRows ? end - d : kRows;
    for (std::int64_t row = 0; row < count; ++row) ask_ahead(rows, d + row, rows.lanes * Size);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t lanes = rows.lanes - block * kUnit;
      std::uint32_t* const of_block = largest + block * kUnit;
      Vector maxima[kParts];
#pragma GCC unroll 4
      for (int i = 0; i < kParts; ++i)
        maxima[i] = load(reinterpret_cast<const std::byte*>(of_block + i * kWidth));
      for (std::int64_t row = 0; row < count; ++row) {
        const std::byte* from = rows.from + (d + row) * rows.stride + block * kBlock;
        std::byte rest[kBlock];
        if (lanes < kUnit) {
          __builtin_memset(rest, 0, sizeof rest);
          __builtin_memcpy(rest, from, std::size_t(lanes * Size));
          from = rest;
        }
        std::byte* const to = panel + block * block_bytes + (d + row) * kUnit * 4;
#pragma GCC unroll 4
        for (int i = 0; i < kParts; ++i) {
          const Vector x = read(from + i * kWidth * Size);
          store(to + 4 * i * kWidth, x);
          maxima[i] = max_bits(maxima[i], magnitude(x));
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kParts; ++i) store(of_block + i * kWidth, maxima[i]);
    }
  }
}

/// Calls `note(block, rows, count)` for some rows of each block, once they are in the panel.
template <typename Note>
NPUBLAS_INLINE void collect_as_it_is(const Rows& rows, std::int64_t begin, std::int64_t end,
                                     std::int64_t size, std::int64_t padded, std::byte* panel,
                                     std::uint8_t padding, Note note) {
  constexpr std::int64_t kRows = 4;
  const std::int64_t bytes = rows.lanes * size, blocks = (bytes + kLine - 1) / kLine;
  for (std::int64_t d = begin; d < end; d += kRows) {
    const std::int64_t count = end - d < kRows ? end - d : kRows;
    for (std::int64_t row = 0; row < count; ++row) ask_ahead(rows, d + row, bytes);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::byte* const from = rows.from + d * rows.stride + block * kLine;
      std::byte* const to = panel + (block * padded + d) * kLine;
      const std::int64_t rest = bytes - block * kLine;
      for (std::int64_t row = 0; row < count; ++row) {
        if (rest < kLine) {
          __builtin_memset(to + row * kLine, padding, kLine);
          __builtin_memcpy(to + row * kLine, from + row * rows.stride, std::size_t(rest));
        } else {
          store_line<false>(to + row * kLine, load_line(from + row * rows.stride), 0);
        }
      }
      note(block, to, count);
    }
  }
}

void collect_halves(const Rows& rows, std::int64_t begin, std::int64_t end, std::int64_t padded,
                    std::byte* panel, HalfRanges* ranges) {
  collect_as_it_is(rows, begin, end, 2, padded, panel, 0,
                   [&](std::int64_t block, const std::byte* from, std::int64_t count) {
                     for (int i = 0; i < 2; ++i) {
                       HalfRanges& noted = ranges[2 * block + i];
                       note_halves(from + 32 * i, kLine, count, noted.largest,
                                   noted.smallest_less_one);
                     }
                   });
}

std::uint8_t collect_bytes(const Rows& rows, std::int64_t begin, std::int64_t end,
                           std::int64_t padded, std::byte* panel, std::uint8_t padding) {
  // Of lanes that lack, there are no bits in the source.
  Vector any = zero();
  collect_as_it_is(rows, begin, end, 1, padded, panel, padding,
                   [&](std::int64_t block, const std::byte* from, std::int64_t count) {
                     const std::int64_t rest = rows.lanes - block * kLine;
                     if (rest < kLine) {
                       std::byte whole[kLine] = {};
                       for (std::int64_t row = 0; row < count; ++row) {
                         __builtin_memcpy(whole, from + row * kLine, std::size_t(rest));
                         for (int i = 0; i < kParts; ++i)
                           any = or_bits(any, load(whole + 4 * i * kWidth));
                       }
                       return;
                     }
                     for (std::int64_t row = 0; row < count; ++row)
                       for (int i = 0; i < kParts; ++i)
                         any = or_bits(any, load(from + row * kLine + 4 * i * kWidth));
                   });
  std::uint32_t words[kWidth], all = 0;
  store(words, any);
  for (const std::uint32_t word : words) all |= word;
  return std::uint8_t(all | all >> 8 | all >> 16 | all >> 24);
}

// ## Coding and transposing

/// 64 bytes of each coded lane: what is written together.
struct Stage {
  alignas(64) std::byte lanes[2 * kUnit][kLine];
  const std::byte* pointers[2 * kUnit];
  Stage() {
    for (int i = 0; i < 2 * kUnit; ++i) pointers[i] = lanes[i];
  }
};

template <bool kStream>
NPUBLAS_INLINE void put_stage(const Stage& stage, const Put& put, std::byte* to) {
  if (put.piece == 16) {
    scatter_16_to<kStream>(stage.pointers, put.count, put.pieces, to, put.piece_stride, put.turned);
  } else if (put.piece == 32 && put.lane_stride == 32) {
    scatter_32_to<kStream>(stage.pointers, put.count, put.pieces, to, put.piece_stride, put.turned);
  } else if (put.piece == kLine || (put.pieces == 2 && put.piece_stride == 32)) {  // row-major A
    for (std::int64_t i = 0; i < put.count; ++i)
      store_line<kStream>(to + i * put.lane_stride, load_line(stage.lanes[i]), put.turned);
  } else {
    for (std::int64_t i = 0; i < put.count; ++i)
      for (std::int64_t at = 0; at < put.piece * put.pieces; at += 16)
        copy_16(to + i * put.lane_stride + at, stage.lanes[i] + at, put.turned);
  }
}

/// Codes blocks of a panel with a Coder, which makes words of kWidth lanes from `kRows` rows:
/// `kOutputs` of them, the second of which go to `low`.
template <typename Coder>
NPUBLAS_INLINE void code_rows(const Panel& panel, const Put& put, std::byte* low, Coder& coder) {
  constexpr std::int64_t kRows = Coder::kRows;
  constexpr int kOutputs = Coder::kOutputs;
  Stage stages[kOutputs];
  const std::int64_t blocks = (put.count + kUnit - 1) / kUnit;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::byte* const from = panel.data + block * panel.next;
    for (int part = 0; part < kParts; ++part) {
      for (int group = 0; group < kParts; ++group) {
        Vector squares[kOutputs][kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          const int word = group * kWidth + i;
          Vector words[kOutputs];
          coder.code(from + word * kRows * kLine + part * kWidth * Coder::kSize,
                     int(block) * kParts + part, int(word * kRows % kUnit), words);
          for (int o = 0; o < kOutputs; ++o) squares[o][i] = words[o];
        }
#pragma GCC unroll 2
        for (int o = 0; o < kOutputs; ++o) {
          transpose(squares[o]);
#pragma GCC unroll 16
          for (int i = 0; i < kWidth; ++i)
            store(stages[o].lanes[block * kUnit + part * kWidth + i] + group * kWidth * 4,
                  squares[o][i]);
        }
      }
    }
  }
  for (int o = 0; o < kOutputs; ++o) {
    std::byte* const to = o == 0 ? put.to : low;
    if (put.stream)
      put_stage<true>(stages[o], put, to);
    else
      put_stage<false>(stages[o], put, to);
  }
}

constexpr int kAll = 2 * kParts;  // vectors of lanes

template <typename T>
NPUBLAS_INLINE Vector load_of(const T* from) {
  return load(reinterpret_cast<const std::byte*>(from));
}

NPUBLAS_INLINE void load_all(const float* from, std::int64_t count, Vector* to) {
  for (int i = 0; i < kAll; ++i)
    to[i] = i * kWidth < count ? load_of(from + i * kWidth) : broadcast(1);
}

struct Halver {
  static constexpr int kRows = 2, kSize = 4, kOutputs = 1;
  Vector first[kAll], second[kAll];
  NPUBLAS_INLINE void code(const std::byte* from, int part, int, Vector* words) const {
    const Vector s = first[part], t = second[part];
    words[0] =
        pair_of(halves_of(mul(mul(load(from), s), t)), halves_of(mul(mul(load(from + 64), s), t)));
  }
};

void halve_rows(const Panel& panel, const float* first, const float* second, const Put& put) {
  Halver coder;
  load_all(first, put.count, coder.first);
  load_all(second, put.count, coder.second);
  code_rows(panel, put, nullptr, coder);
}

struct HalfScaler {
  static constexpr int kRows = 2, kSize = 2, kOutputs = 1;
  Vector powers[kAll];
  NPUBLAS_INLINE void code(const std::byte* from, int part, int, Vector* words) const {
    words[0] = pair_of(halves_of(mul(load_float16(from), powers[part])),
                       halves_of(mul(load_float16(from + 64), powers[part])));
  }
};

void scale_rows(const Panel& panel, const float* powers, const Put& put) {
  HalfScaler coder;
  load_all(powers, put.count, coder.powers);
  code_rows(panel, put, nullptr, coder);
}

struct HalfCopier {
  static constexpr int kRows = 2, kSize = 2, kOutputs = 1;
  NPUBLAS_INLINE void code(const std::byte* from, int, int, Vector* words) const {
    words[0] = load_pairs(from, from + 64);
  }
};

void copy_rows_of_halves(const Panel& panel, const Put& put) {
  HalfCopier coder;
  code_rows(panel, put, nullptr, coder);
}

struct Splitter {
  static constexpr int kRows = 2, kSize = 4, kOutputs = 2;
  SplitNotes& notes;
  Vector first[kParts], second[kParts], largest[kParts], lows[kParts], counts[kParts];
  NPUBLAS_INLINE void code(const std::byte* from, int part, int row, Vector* words) {
    Parts parts[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector x = mul(mul(load(from + 64 * i), first[part]), second[part]);
      const Vector size_of_x = magnitude(x);
      parts[i] = split_vector(x, size_of_x);
      lows[part] = max_bits(lows[part], parts[i].raised);
      add_to(notes.sizes[row + i] + part * kWidth, size_of_x);
      add_to(notes.totals[row + i] + part * kWidth, parts[i].loss);
      largest[part] = max_bits(largest[part], parts[i].loss);
      counts[part] = count_if_at_least(counts[part], size_of_x, broadcast(0x1p9f));
    }
    words[0] = pair_of(parts[0].high, parts[1].high);
    words[1] = pair_of(parts[0].low, parts[1].low);
  }
  NPUBLAS_INLINE static void add_to(float* sums, Vector x) { store(sums, add(load_of(sums), x)); }
};

void split_rows(const Panel& panel, const float* first, const float* second, const Put& put,
                std::byte* low, SplitNotes& notes) {
  Splitter coder{.notes = notes};
  for (int i = 0; i < kParts; ++i) {
    coder.first[i] = load_of(first + i * kWidth);
    coder.second[i] = load_of(second + i * kWidth);
    coder.largest[i] = load_of(notes.largest + i * kWidth);
    coder.counts[i] = load_of(notes.large + i * kWidth);
    coder.lows[i] = zero();
  }
  code_rows(panel, put, low, coder);
  float low_parts[kUnit];
  for (int i = 0; i < kParts; ++i) {
    store(notes.largest + i * kWidth, coder.largest[i]);
    store(notes.large + i * kWidth, coder.counts[i]);
    store(low_parts + i * kWidth, coder.lows[i]);
  }
  for (const float part : low_parts) notes.any_low |= part >= kRoundsToNormal;
}

struct Quantizer {
  static constexpr int kRows = 4, kSize = 4, kOutputs = 1;
  Vector scales[kAll], inverses[kAll], top, bottom, any;
  bool divides;
  NPUBLAS_INLINE void code(const std::byte* from, int part, int, Vector* words) {
    Vector quotients[4], farthest = zero();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      quotients[i] = max(min(mul(load(from + 64 * i), inverses[part]), top), bottom);
      farthest = max_bits(farthest, magnitude(sub(quotients[i], round(quotients[i]))));
    }
    if (__builtin_expect(divides || any_above(farthest, kSurelyNearest), false)) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        quotients[i] = max(min(div(load(from + 64 * i), scales[part]), top), bottom);
    }
    words[0] = quad_of_bytes(quotients);
    any = or_bits(any, words[0]);
  }
};

std::uint8_t quantize_rows(const Panel& panel, const float* scales, int limit, const Put& put) {
  Quantizer coder;
  load_all(scales, put.count, coder.scales);
  for (int i = 0; i < kAll; ++i) coder.inverses[i] = div(broadcast(1), coder.scales[i]);
  coder.divides = false;
  for (std::int64_t i = 0; i < put.count; ++i) coder.divides |= !can_be_inverted(scales[i]);
  coder.top = broadcast(float(limit));
  coder.bottom = broadcast(-float(limit));
  coder.any = zero();
  code_rows(panel, put, nullptr, coder);
  std::uint32_t words[kWidth], all = 0;
  store(words, coder.any);
  for (const std::uint32_t word : words) all |= word;
  return std::uint8_t(all | all >> 8 | all >> 16 | all >> 24);
}

struct ByteCopier {
  static constexpr int kRows = 4, kSize = 1, kOutputs = 1;
  Vector sums[kAll], turned;
  NPUBLAS_INLINE void code(const std::byte* from, int part, int, Vector* words) {
    words[0] = load_quads(from, from + 64, from + 128, from + 192);
    sums[part] = add_bytes(sums[part], words[0], turned);
  }
};

void copy_rows_of_bytes(const Panel& panel, const Put& put, std::int32_t* sums) {
  ByteCopier coder;
  for (int i = 0; i * kWidth < put.count; ++i) coder.sums[i] = load_of(sums + i * kWidth);
  coder.turned = broadcast_byte(put.turned);
  code_rows(panel, put, nullptr, coder);
  for (int i = 0; i * kWidth < put.count; ++i) store(sums + i * kWidth, coder.sums[i]);
}

// ## The table

constexpr Packers packers() {
  return {.widen_float16 = widen<load_float16, 2>,
          .widen_bfloat16 = widen<load_bfloat16, 2>,
          .widen_float64 = widen<load_float64, 8>,
          .largest_float = largest_float,
          .range_of_halves = range_of_halves,
          .note_bytes = note_bytes,
          .halve = halve,
          .scale_halves = scale_halves,
          .split = split,
          .quantize = quantize,
          .scatter_16 = scatter_16,
          .scatter_32 = scatter_32,
          .scatter_64 = scatter_64,
          .collect_float32 = collect_floats<load, 4>,
          .collect_float16 = collect_floats<load_float16, 2>,
          .collect_bfloat16 = collect_floats<load_bfloat16, 2>,
          .collect_float64 = collect_floats<load_float64, 8>,
          .collect_halves = collect_halves,
          .collect_bytes = collect_bytes,
          .halve_rows = halve_rows,
          .scale_rows = scale_rows,
          .copy_rows_of_halves = copy_rows_of_halves,
          .split_rows = split_rows,
          .quantize_rows = quantize_rows,
          .copy_rows_of_bytes = copy_rows_of_bytes,
          .fence = fence};
}

}  // namespace
}  // namespace npublas
