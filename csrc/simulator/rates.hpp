// # Rates
// What the clock knows of the chip: all its constants, in one table, and what they make of a
// product. A profile is how much of the chip a program gets; the settings override single values.
// docs/simulator.md says where each figure comes from, and compares the outcome with measurements.
//
//                          first    target   stretch
//   share of the MACs      0.88     0.95     0.95     of 512 (16 bits), 1024 (8), 2048 (4) per
//   cycle memory, one core       8.7      12.8     12.8     GB/s, reading and writing each memory,
//   all cores      15       24       28       GB/s, reading and writing together a run 100      60
//   30       µs, from the call to the first task a task in a chain      8.7      3        1.3 µs,
//   and a run that waited for its core
//
// The time of a run by itself is
//
//   (tasks - 1) * task + factor * max(MACs / rate, read / core, written / core)
//
// where factor is 1 for native A and C, and what writing rows of C costs otherwise; and while
// several cores run, their bytes (times factor) share the memory.
#pragma once

#include <cstdint>

#include "cutting.hpp"

namespace npublas::simulator {

/// Nanoseconds, and bytes per nanosecond, which are GB/s.
struct Rates {
  double cycles = 1;  // of the NPU, per nanosecond
  double efficiency = 1;
  double core = 1;
  double memory = 1;
  double submit = 0;
  double task = 0;
  double sync = 0;  // a cache sync, and the bytes that it walks over
  double sync_rate = 1;
  double bind = 0;
  double create = 0;
};

/// Of the profile that the setting `clock` names (the target while it is off), with the other
/// settings in place.
Rates current_rates();

/// What a run asks of the chip.
struct Work {
  double fixed = 0;  // ns before its bytes flow: the gaps between its tasks
  double alone = 0;  // ns that they take if no other core streams and the memory keeps up
  double bytes = 0;  // of the memory's time, so more than streamed where rows of C are written
};

Work work(const Cuttable& product, const Cut& cut, const Rates& rates);

}  // namespace npublas::simulator
