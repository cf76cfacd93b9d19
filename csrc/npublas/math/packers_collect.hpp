// # Packers that collect rows in which lanes are neighbours
// The second part of packers_body.hpp: from memory into a panel, and what is seen of lanes
// meanwhile.
#pragma once

#include "npublas/math/packers_body.hpp"

namespace npublas {
namespace {

template <typename T>
NPUBLAS_INLINE Vector load_of(const T* from) {
  return load(reinterpret_cast<const std::byte*>(from));
}

// No prefetcher of a processor follows rows that are pages apart. And rows that are a power of two
// apart share a few sets of a cache, which then holds no more than some ten of them: so each line
// is used up at once, and not much is asked for ahead.
// (On Zen 5, 4 KiB and 16 KiB were a tenth less.)
constexpr std::int64_t kBytesAhead = 8192;
constexpr std::int64_t kRowsTogether = 4;

/// Asks for rows before they are read: to L2, since L1 couldn't hold them.
class Ahead {
 public:
  Ahead(const Rows& rows, std::int64_t bytes)
      : rows_(rows), bytes_(bytes), rows_ahead_(kBytesAhead / (bytes < kLine ? kLine : bytes)) {}

  NPUBLAS_INLINE void ask(std::int64_t d) const {
    std::int64_t row = d + rows_ahead_, wanted = bytes_;
    const std::byte* line = rows_.from;
    if (row >= rows_.depth) {  // the first rows of the next lanes
      row -= rows_.depth;
      line += bytes_;
      wanted = bytes_ < rows_.more ? bytes_ : rows_.more;
      if (row >= rows_.depth) return;
    }
    line += row * rows_.stride;
    if (wanted <= 0) return;
    for (std::int64_t i = 0; i < wanted; i += kLine) __builtin_prefetch(line + i, 0, 2);
    __builtin_prefetch(line + wanted - 1, 0, 2);  // one more, unless lines begin here
  }

 private:
  const Rows& rows_;
  const std::int64_t bytes_, rows_ahead_;
};

/// Calls `collect(from, stride, count, block, d)` for a few rows of each block of `block_bytes`,
/// `count` being a constant if they are as many as usual. Of a last block that isn't whole there is
/// a copy, the rest of which is `padding`.
template <std::int64_t kBlock, typename Collect>
NPUBLAS_INLINE void for_each_block(const Rows& rows, std::int64_t begin, std::int64_t end,
                                   std::int64_t size, std::uint8_t padding, Collect collect) {
  const std::int64_t bytes = rows.lanes * size, blocks = bytes / kBlock, rest = bytes % kBlock;
  const Ahead ahead(rows, bytes);
  for (std::int64_t d = begin; d < end; d += kRowsTogether) {
    const std::int64_t count = end - d < kRowsTogether ? end - d : kRowsTogether;
    for (std::int64_t row = 0; row < count; ++row) ahead.ask(d + row);
    const std::byte* const from = rows.from + d * rows.stride;
    if (count == kRowsTogether) {
      for (std::int64_t block = 0; block < blocks; ++block)
        collect(from + block * kBlock, rows.stride, kRowsTogether, block, d);
    } else {
      for (std::int64_t block = 0; block < blocks; ++block)
        collect(from + block * kBlock, rows.stride, count, block, d);
    }
    if (rest == 0) continue;
    std::byte last[kRowsTogether * kBlock];
    __builtin_memset(last, padding, sizeof last);
    for (std::int64_t row = 0; row < count; ++row)
      __builtin_memcpy(last + row * kBlock, from + row * rows.stride + blocks * kBlock,
                       std::size_t(rest));
    collect(last, kBlock, count, blocks, d);
  }
}

template <Vector (*read)(const std::byte*), int Size>
void collect_floats(const Rows& rows, std::int64_t begin, std::int64_t end, std::int64_t padded,
                    std::byte* panel, std::uint32_t* largest) {
  const auto collect = [&](const std::byte* from, std::int64_t stride, std::int64_t count,
                           std::int64_t block, std::int64_t d) __attribute__((always_inline)) {
    std::byte* const to = panel + (block * padded + d) * kLine;
    std::uint32_t* const of_block = largest + block * kUnit;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      Vector maxima = load_of(of_block + i * kWidth);
#pragma GCC unroll 4
      for (std::int64_t row = 0; row < count; ++row) {
        const Vector x = read(from + row * stride + i * kWidth * Size);
        store(to + row * kLine + 4 * i * kWidth, x);
        maxima = max_bits(maxima, magnitude(x));
      }
      store(of_block + i * kWidth, maxima);
    }
  };
  for_each_block<kUnit * Size>(rows, begin, end, Size, 0, collect);
}

/// Lines as they are; calls `note(block, lines, count)` for those of each block.
template <typename Note>
NPUBLAS_INLINE void collect_lines(const Rows& rows, std::int64_t begin, std::int64_t end,
                                  std::int64_t size, std::int64_t padded, std::byte* panel,
                                  std::uint8_t padding, Note note) {
  const auto collect = [&](const std::byte* from, std::int64_t stride, std::int64_t count,
                           std::int64_t block, std::int64_t d) __attribute__((always_inline)) {
    std::byte* const to = panel + (block * padded + d) * kLine;
#pragma GCC unroll 4
    for (std::int64_t row = 0; row < count; ++row)
      store_line<false>(to + row * kLine, load_line(from + row * stride), 0);
    note(block, to, count);
  };
  for_each_block<kLine>(rows, begin, end, size, padding, collect);
}

void collect_halves(const Rows& rows, std::int64_t begin, std::int64_t end, std::int64_t padded,
                    std::byte* panel, HalfRanges* ranges) {
  collect_lines(rows, begin, end, 2, padded, panel, 0,
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
  Vector any = zero();
  collect_lines(rows, begin, end, 1, padded, panel, padding,
                [&](std::int64_t block, const std::byte* lines, std::int64_t count) {
                  std::byte last[kLine] = {};  // without the padding
                  const std::int64_t rest = rows.lanes - block * kLine;
                  for (std::int64_t row = 0; row < count; ++row) {
                    const std::byte* line = lines + row * kLine;
                    if (rest < kLine) {
                      __builtin_memcpy(last, line, std::size_t(rest));
                      line = last;
                    }
#pragma GCC unroll 4
                    for (int i = 0; i < kParts; ++i)
                      any = or_bits(any, load(line + 4 * i * kWidth));
                  }
                });
  std::uint32_t words[kWidth], all = 0;
  store(words, any);
  for (const std::uint32_t word : words) all |= word;
  return std::uint8_t(all | all >> 8 | all >> 16 | all >> 24);
}

}  // namespace
}  // namespace npublas
