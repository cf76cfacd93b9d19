// # What a run streams
// The runtime cuts the product of one context for the buffer on the chip, and that decides what
// the chip reads and writes (librknnrt 1.6.0, from the task lists of 5345 shapes;
// docs/runtimes.md):
//
//   for each piece of at most 8160 columns:
//     for each task, a range of rows that fits on chip beside two groups of columns of B
//       stream B, unless all of it stays on chip from the task before (row-major A and C only)
//       stream the rows of A, write those of C
//
// Row-major A and C leave A up to 11 of the 12 banks, native ones no more than 4: so B is streamed
// two to three times as often. On the other hand they are written a little faster.
#pragma once

#include <cstdint>

#include "npublas/math/layout.hpp"
#include "npublas/math/rates.hpp"

namespace npublas {

/// How the runtime cuts a context's product. Sizes are those of the context.
struct Cutting {
  std::int64_t pieces;   ///< of N
  std::int64_t tasks;    ///< of all pieces
  std::int64_t rows;     ///< of the highest task
  double weight_passes;  ///< how many times B is streamed
};
Cutting cut_on_chip(Element element, Layout layout, std::int64_t rows, std::int64_t depth,
                    std::int64_t columns);

/// The most rows that are one task, so that B is streamed once; 1 if there is no such number.
std::int64_t rows_of_one_task(Element element, Layout layout, std::int64_t depth,
                              std::int64_t columns);

/// What a run asks of the chip.
struct RunWork {
  double gaps = 0;   ///< seconds between its tasks
  double alone = 0;  ///< seconds that it computes and streams if no other core wants the memory
  double bytes = 0;  ///< of A, B and C, from and to memory
  double share = 0;  ///< bytes of the memory's time that they take: more for long rows of C
};
RunWork work_of_run(Element element, Layout layout, std::int64_t rows, std::int64_t depth,
                    std::int64_t columns, const Rates& rates);

/// How long it takes while `busy` cores do the same, without the submission.
double seconds_of_run(const RunWork& work, const Rates& rates, int busy);

}  // namespace npublas
