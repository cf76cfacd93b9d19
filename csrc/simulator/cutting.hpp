// # Cutting
// How the runtime cuts a product for a core's on-chip buffer, and so what the core streams. It is
// not a choice of a program's: it was observed, task by task, by driving the vendor's 1.6.0 on an
// emulated chip, and these formulas reproduce what was seen (tests/data/tiling.csv, and the test
// beside it names the shapes that they miss).
//
//   for each piece of the columns:           at most 8160 (int4 8128) in a piece
//     for each tile of rows:                 a task: as many rows as fit beside the weights
//       stream the piece of B                unless it stayed in the buffer
//       read the rows of A, write those of C
//
// The buffer has 12 banks of 32 KiB for rows of A and for B. With row-major A and C, weights take
// two groups of columns and leave the rest to A; if the whole piece of B fits in 8 banks, it stays.
// With native A and C, A gets what 8 banks of weights leave, and B is streamed for each tile.
#pragma once

#include <cstdint>

namespace npublas::simulator {

/// A product as a context has it: for native A and C, `rows` is what the NPU's program has.
struct Cuttable {
  int bits;     // of an element of A and B: 4, 8, 16
  int group;    // columns of a group of weights: 64, 32, 16
  int c_bytes;  // of an element of C
  bool native;  // A and C
  std::int64_t rows, depth, columns;
};

struct Cut {
  std::int64_t tasks = 0;          // of one run
  std::int64_t reusing = 0;        // of these, how many find their weights in the buffer
  std::int64_t tile_rows = 0;      // of the largest task
  std::int64_t piece_columns = 0;  // of the first piece
  std::int64_t b_bytes = 0;        // streamed, once for each task that reads them
  std::int64_t a_bytes = 0;        // read, once for each piece
  std::int64_t c_bytes = 0;        // written, once

  std::int64_t read() const { return a_bytes + b_bytes; }
  std::int64_t streamed() const { return a_bytes + b_bytes + c_bytes; }
};

Cut cut(const Cuttable& product);

}  // namespace npublas::simulator
