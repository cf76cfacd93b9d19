// # Measuring
// What a machine does, one quantity at a time, for `npublas tune`: runs of the NPU, how much of its
// memory can be had, packing and unpacking by the host, and how long it takes to wake a thread. The
// NPU is measured through a runtime of its own, so the engine must be closed; the lock keeps other
// processes away meanwhile.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "npublas/math/layout.hpp"

namespace npublas {

/// Whose NPU, and how long it is waited for. Each function throws Error(unavailable) if another
/// process holds the NPU, Error(timeout) if it does not come back, and what the runtime throws.
struct MeasuredDevice {
  std::string runtime = "auto";
  std::string lock_file;
  std::chrono::milliseconds patience{20000};  ///< for one run, at most
};

/// Runs of one shape.
struct Runs {
  Element element = Element::int8;
  int rows = 4, depth = 32, columns = 32;
  Layout layout = Layout::native;
  std::vector<int> cores = {0};        ///< all at the same time
  int in_flight = 1;                   ///< per core: with 2, one waits behind the other
  int times = 1;                       ///< of each one in flight, after one that isn't measured
  std::chrono::microseconds pause{0};  ///< before each run
};
struct MeasuredRuns {
  std::vector<double> seconds;  ///< of each run, of all that were in flight
  double elapsed;               ///< from the first begin to the last end
};
MeasuredRuns measure_runs(const MeasuredDevice& device, const Runs& runs);

/// The bytes of NPU memory that could be had at once, in steps of 32 MiB, up to `most`.
std::size_t measure_window(const MeasuredDevice& device, std::size_t most);

/// Bytes read and written per second by `threads` that each pack or unpack tiles of a matrix of
/// their own until `duration` is over.
enum class HostWork : std::uint8_t { pack_a, pack_b, unpack_c };
double measure_host(HostWork work, int threads, std::chrono::microseconds duration);

/// Seconds from waking a thread that has slept for a moment to its going on, while the one that
/// wakes it is busy: the median of as many times as `duration` has room for.
double measure_handoff(std::chrono::microseconds duration);

}  // namespace npublas
