// # Host threads
// How many threads pack and unpack for one product, the caller among them. Four by default: an
// RK3588 has four fast cores, and its slow ones don't help (docs/tuning.md).
#pragma once

namespace npublas {

inline constexpr int kDefaultThreads = 4;

/// The CPUs that the calling thread may run on: looked up anew, since that changes.
int cpus_allowed() noexcept;

/// `wanted` by the settings and at most `most` (0 for each: nothing was said), but no more than
/// CPUs that the calling thread may run on.
int host_threads(int wanted, int most) noexcept;

}  // namespace npublas
