// # Packers of rows in which lanes are neighbours
// The last part of packers_body.hpp. Collected rows are coded and transposed, in this order:
// what is coded is half as large or less, and two float16 or four int8 of a lane make a word, of
// which a square is transposed in registers.
#pragma once

#include "npublas/math/packers_collect.hpp"

namespace npublas {
namespace {

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

/// A square of words, transposed to pieces.
template <int kPiece, typename Coder>
NPUBLAS_INLINE void code_square(const std::byte* from, int part, int group, Coder& coder,
                                Vector (&squares)[Coder::kOutputs][kWidth]) {
  // Words half of the depth apart are neighbours in this order, because these may share sums.
  constexpr int kApart = kWidth < 16 ? kWidth : 8;
#pragma GCC unroll 16
  for (int n = 0; n < kWidth; ++n) {
    const int i = n % (kWidth / kApart) * kApart + n / (kWidth / kApart);
    const int row = (group * kWidth + i) * Coder::kRows;
    Vector words[Coder::kOutputs];
    coder.code(from + row * kLine, part, row % kUnit, words);
    for (int o = 0; o < Coder::kOutputs; ++o) squares[o][i] = words[o];
  }
#pragma GCC unroll 2
  for (int o = 0; o < Coder::kOutputs; ++o) transpose<kPiece>(squares[o]);
}

/// Calls `code(from, part, group)` for all squares.
template <typename Coder, typename Code>
NPUBLAS_INLINE void for_each_square(const Panel& panel, std::int64_t count, Code code) {
  for (int part = 0; part * kWidth < count; ++part)
    for (int group = 0; group < kParts; ++group)
      code(panel.data + part / kParts * panel.next + part % kParts * kWidth * Coder::kSize, part,
           group);
}

/// By way of a stage, for whatever isn't whole.
template <typename Coder>
NPUBLAS_INLINE void code_staged(const Panel& panel, const Put& put, std::byte* const* to,
                                Coder& coder) {
  Stage stages[Coder::kOutputs];
  for_each_square<Coder>(panel, put.count, [&](const std::byte* from, int part, int group) {
    Vector squares[Coder::kOutputs][kWidth];
    code_square<4 * kWidth>(from, part, group, coder, squares);
    for (int o = 0; o < Coder::kOutputs; ++o)
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i)
        store(stages[o].lanes[part * kWidth + i] + group * kWidth * 4, squares[o][i]);
  });
  for (int o = 0; o < Coder::kOutputs; ++o) {
    if (put.stream)
      put_stage<true>(stages[o], put, to[o]);
    else
      put_stage<false>(stages[o], put, to[o]);
  }
}

/// Whole vectors of lanes, whose lines are made in registers.
template <int kPiece, typename Coder>
NPUBLAS_INLINE void code_lines(const Panel& panel, const Put& put, std::byte* const* to,
                               Coder& coder) {
  constexpr int kPieces = 4 * kWidth / kPiece,
                kLanes = kPieces;  // of a lane in a square, in a vector
  const Vector turned = broadcast_byte(put.turned);
  for_each_square<Coder>(panel, put.count, [&](const std::byte* from, int part, int group) {
    Vector squares[Coder::kOutputs][kWidth];
    code_square<kPiece>(from, part, group, coder, squares);
    const std::int64_t at = group * kPieces * put.piece_stride + part * kWidth * put.lane_stride;
    const auto put_squares = [&](auto store_to) {
      for (int o = 0; o < Coder::kOutputs; ++o)
        for (int p = 0; p < kPieces; ++p)
#pragma GCC unroll 16
          for (int i = 0; i < kWidth / kLanes; ++i)
            store_to(to[o] + at + p * put.piece_stride + i * kLanes * put.lane_stride,
                     squares[o][p * (kWidth / kLanes) + i], turned);
    };
    if (put.stream)
      put_squares([](std::byte* line, Vector x, Vector y) { store_coded<true>(line, x, y); });
    else
      put_squares([](std::byte* line, Vector x, Vector y) { store_coded<false>(line, x, y); });
  });
}

/// Codes blocks of a panel with a Coder, which makes words of kWidth lanes from `kRows` rows:
/// `kOutputs` of them, the second of which go to `low`.
template <typename Coder>
NPUBLAS_INLINE void code_rows(const Panel& panel, const Put& put, std::byte* low, Coder& coder) {
  std::byte* const to[2] = {put.to, low};
  // The pieces of a lane may be neighbours as well, those of row-major A.
  const std::int64_t piece = put.piece_stride == put.piece ? put.piece * put.pieces : put.piece;
  const bool whole = put.count % kUnit == 0 && put.piece * put.pieces == kLine;
  if (whole && piece == 16) return code_lines<16>(panel, put, to, coder);
  if constexpr (kWidth >= 8)
    if (whole && piece == 32) return code_lines<32>(panel, put, to, coder);
  if constexpr (kWidth >= 16)
    if (whole && piece == 64) return code_lines<64>(panel, put, to, coder);
  code_staged(panel, put, to, coder);
}

constexpr int kAll = 2 * kParts;  // vectors of lanes

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

/// Of what isn't subnormal, the exponent is added to; see scale_halves.
struct HalfRaiser {
  static constexpr int kRows = 2, kSize = 2, kOutputs = 1;
  Vector raises[kAll];
  Vector smallest = all_ones();
  NPUBLAS_INLINE void code(const std::byte* from, int part, int, Vector* words) {
    words[0] = raise_halves(load_pairs(from, from + 64), raises[part], smallest);
  }
};

void scale_rows(const Panel& panel, const float* powers, const Put& put) {
  HalfScaler coder;
  load_all(powers, put.count, coder.powers);
  HalfRaiser raiser;
  for (int i = 0; i < kAll; ++i) raiser.raises[i] = raise_by(coder.powers[i]);
  code_rows(panel, put, nullptr, raiser);
  if (any_subnormal_half(raiser.smallest)) code_rows(panel, put, nullptr, coder);
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

template <bool kLossless>
struct Splitter {
  static constexpr int kRows = 2, kSize = 4, kOutputs = 2;
  SplitNotes& notes;
  Vector first[kParts], second[kParts], largest[kParts], lows[kParts], counts[kParts];
  Vector smallest = all_ones();

  Splitter(const float* factors, const float* more_factors, SplitNotes& all_notes)
      : notes(all_notes) {
    for (int i = 0; i < kParts; ++i) {
      first[i] = load_of(factors + i * kWidth);
      second[i] = load_of(more_factors + i * kWidth);
      largest[i] = load_of(notes.largest + i * kWidth);
      counts[i] = load_of(notes.large + i * kWidth);
      lows[i] = zero();
    }
  }

  NPUBLAS_INLINE void code(const std::byte* from, int part, int row, Vector* words) {
    Parts parts[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector x = mul(mul(load(from + 64 * i), first[part]), second[part]);
      const Vector size_of_x = magnitude(x);
      parts[i] = split_vector<kLossless>(x, size_of_x);
      add_to(notes.sizes[row + i] + part * kWidth, size_of_x);
      counts[part] = count_if_at_least(counts[part], size_of_x, broadcast(0x1p9f));
      if constexpr (kLossless) {
        lows[part] = or_bits(lows[part], parts[i].raised);
        smallest = min_less_one(smallest, size_of_x);
      } else {
        lows[part] = max_bits(lows[part], parts[i].raised);
        add_to(notes.totals[row + i] + part * kWidth, parts[i].loss);
        largest[part] = max_bits(largest[part], parts[i].loss);
      }
    }
    words[0] = pair_of(parts[0].high, parts[1].high);
    words[1] = pair_of(parts[0].low, parts[1].low);
  }
  NPUBLAS_INLINE static void add_to(float* sums, Vector x) { store(sums, add(load_of(sums), x)); }

  /// Notes the rest of it.
  void note() {
    float low_parts[kUnit];
    for (int i = 0; i < kParts; ++i) {
      store(notes.largest + i * kWidth, largest[i]);
      store(notes.large + i * kWidth, counts[i]);
      store(low_parts + i * kWidth, magnitude(lows[i]));
    }
    for (const float part : low_parts)
      notes.any_low |= kLossless ? part != 0 : part >= kRoundsToNormal;
  }
};

void split_rows(const Panel& panel, const float* first, const float* second, const Put& put,
                std::byte* low, SplitNotes& notes) {
  if (!expectation.of_loss()) {
    float sizes[kUnit][kUnit];
    __builtin_memcpy(sizes, notes.sizes, sizeof sizes);
    Splitter<true> lossless(first, second, notes);
    code_rows(panel, put, low, lossless);
    if (!any_less_one_below(lossless.smallest, kLosesNothing)) return lossless.note();
    expectation.note_loss();
    __builtin_memcpy(notes.sizes, sizes, sizeof sizes);
  }
  Splitter<false> coder(first, second, notes);
  code_rows(panel, put, low, coder);
  coder.note();
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
