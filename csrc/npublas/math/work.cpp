#include "npublas/math/work.hpp"

#include <algorithm>

namespace npublas {

StepWork work_of_step(const Plan& p, const SourceBytes& bytes, const Rates& rates) {
  const bool split = p.method == Method::float32, nibbles = p.element == Element::int4;
  const double rows = double(p.tile_rows), depth = double(p.surface_depth());
  const double columns = double(p.tile_columns);
  const double element = double(bytes_of(p.element, 2)) / 2;
  const double sum = double(bytes_of_sum(p.element));
  const auto run_of = [&](std::int64_t high) {
    return work_of_run(p.element, p.layout, high, p.surface_depth(), p.tile_columns, rates);
  };

  StepWork work;
  work.runs = p.runs_per_step();
  work.run[0] = run_of(p.run_rows());
  for (int i = 1; i < work.runs; ++i) work.run[i] = run_of(p.tile_rows);

  const double a_packed = rows * depth * element * (split ? 2 : p.parts);
  const double b_packed = depth * columns * element * (split ? 2 : 1);
  const int surfaces = split ? 1 + p.low.a + p.low.b : p.parts;
  const double sums = rows * columns * sum * surfaces;
  work.a_bytes = rows * depth * bytes.a + a_packed;
  work.b_bytes = depth * columns * bytes.b + b_packed;
  work.sum_bytes = sums;
  work.out_bytes = rows * columns * bytes.out;
  if (nibbles) {  // parts are made from bytes, and their sums become int32, in passes of their own
    work.a_bytes += 2 * rows * depth;
    work.sum_bytes += 8 * rows * columns;
  }
  const auto sync = [&rates](double size) {
    return rates.sync_seconds + size / rates.sync_bytes_per_second;
  };
  work.a_sync_seconds = sync(a_packed);
  work.b_sync_seconds = sync(b_packed);
  work.sum_sync_seconds = sync(sums);
  const double latency = rates.submit_seconds + 3 * rates.bind_seconds;
  for (int i = 0; i < work.runs; ++i) {
    const double run = seconds_of_run(work.run[i], rates, p.cores);
    work.streamed_bytes += work.run[i].bytes;
    // A run waits for the one before it or, if that is short, for its own submission, which can't
    // begin before the run before that is over.
    work.device_seconds += std::max(run + rates.queued_seconds, (latency + run) / kRunsInFlight);
  }
  return work;
}

}  // namespace npublas
