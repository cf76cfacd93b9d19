// # Rates
// All constants of the cost model in one plain value: what a machine does per second, and what a
// call, a run and a byte cost. Three profiles come from published measurements of RK3588 boards;
// a machine that was measured has rates of its own.
//
//                       first   target  stretch
//   efficiency of MACs  0.88    0.95    0.95      the share of the peak
//   memory, one core    8.7     12.8    12.8      GB/s, reading and writing each
//   memory, all cores   15      24      28        GB/s, reading and writing together
//   a run               100     60      30        µs: submission, interrupt, wake-up
//   a task or run more  8.7     3       1.3       µs: started by the driver or the NPU itself
//   a call              150     45      30        µs
//   host threads        2       8       14        GB/s packed and unpacked, read and written
//   a thread's waking   15      10      5         µs: from being woken to going on
//
// docs/simulator.md settles efficiency and one core's memory against the vendor's own rows.
#pragma once

#include "npublas/math/layout.hpp"

namespace npublas {

struct Rates {
  // The NPU: one core's multiply-accumulates at the peak, by Element (int8, float16, int4), and the
  // share of it that a product reaches whose operands are there.
  double macs_per_second[kElements] = {1.024e12, 0.512e12, 2.048e12};
  double efficiency = 0.95;
  double core_bytes_per_second = 12.8e9;  ///< of one core, reading, and as much writing
  double memory_bytes_per_second = 24e9;  ///< of all its cores, reading and writing
  double submit_seconds = 60e-6;          ///< from the call of a run to its first byte, and back
  double queued_seconds = 3e-6;  ///< between a run and one that waited, or two tasks of a run
  double slack = 1;              ///< on the time of a run, where no more is known
  double normal_factor = 1.05;   ///< row-major A and C against native ones, rows of C <= 4 KiB

  // The host: bytes read and written.
  double call_seconds = 45e-6;
  double pack_bytes_per_second = 4e9;      ///< of one thread
  double pack_bytes_per_second_all = 8e9;  ///< of all threads together
  int threads = 4;
  // What the runtime's calls take a host thread: making a buffer's cache and memory agree, and
  // giving a buffer to a context.
  double sync_seconds = 1.1e-6;
  double sync_bytes_per_second = 10.6e9;
  double bind_seconds = 5e-6;
  /// From work for a thread that sleeps to its first instruction: once for every pack, run and
  /// unpacking that was waited for. Guessed: on an A76 at its highest clock, with the waiter on
  /// the CPU of the interrupt or not, a submission took 27 or 34 µs; npublas tune measures it.
  double handoff_seconds = 10e-6;
  double cpu_flops = 120e9;  ///< of float32 products, all threads
  double cpu_bytes_per_second = 20e9;

  double dram_bytes_per_second = 28e9;  ///< of NPU and host together

  /// True if a board was measured. A plan is made for measured rates or, if there are none, for the
  /// target; whether it pays is decided by what is known.
  bool measured = false;

  bool operator==(const Rates&) const = default;
};

/// The profiles of the table above, to measure schedules by.
constexpr Rates target_rates() { return {}; }
constexpr Rates stretch_rates() {
  return {.memory_bytes_per_second = 28e9,
          .submit_seconds = 30e-6,
          .queued_seconds = 1.3e-6,
          .call_seconds = 30e-6,
          .pack_bytes_per_second = 7e9,
          .pack_bytes_per_second_all = 14e9,
          .handoff_seconds = 5e-6,
          .cpu_flops = 125e9};
}
constexpr Rates first_rates() {
  return {.efficiency = 0.88,
          .core_bytes_per_second = 8.7e9,
          .memory_bytes_per_second = 15e9,
          .submit_seconds = 100e-6,
          .queued_seconds = 8.7e-6,
          .call_seconds = 150e-6,
          .pack_bytes_per_second = 1e9,
          .pack_bytes_per_second_all = 2e9,
          .handoff_seconds = 15e-6,
          .cpu_flops = 100e9};
}

/// What is believed of a board that nobody has measured: the pessimistic end of what is published,
/// because the first rule is never to be slower than NumPy. A first, untuned implementation took
/// 3.5 times what the traffic explains, and scalar packers of others reach 0.5 to 0.9 GB/s.
constexpr Rates pessimistic() {
  Rates rates = first_rates();
  rates.slack = 3.5;
  rates.pack_bytes_per_second = 0.5e9;
  rates.pack_bytes_per_second_all = 1.5e9;
  rates.cpu_flops = 120e9;
  return rates;
}

}  // namespace npublas
