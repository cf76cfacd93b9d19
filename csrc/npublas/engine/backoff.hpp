// # Backing off
// What fails is tried again at once a few times, and then after 1 s, 2, 4, ... 64 s. In atomics, so
// that a decision reads it without a lock.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>

namespace npublas {

/// Nanoseconds of the steady clock.
inline std::int64_t nanoseconds_now() noexcept {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Backoff {
 public:
  /// `free`: so many failures in a row cost no time.
  explicit constexpr Backoff(int free) : free_(free) {}

  void note_failure() noexcept {
    const int beyond = ++failures_ - free_;
    if (beyond > 0) until_ = nanoseconds_now() + (kSecond << std::min(beyond - 1, kMostDoublings));
  }
  /// The next failure is the first in a row. What is being waited for is waited for all the same.
  void note_success() noexcept { failures_ = 0; }
  /// The next try may be made at once; there is to be none.
  void wait_no_longer() noexcept { until_ = 0; }
  void wait_for_good() noexcept { until_ = std::numeric_limits<std::int64_t>::max(); }
  void reset() noexcept {
    note_success();
    wait_no_longer();
  }

  bool waits() const noexcept {
    const std::int64_t end = until();
    return end != 0 && nanoseconds_now() < end;
  }
  /// By `nanoseconds_now`; 0 if nothing was to be waited for.
  std::int64_t until() const noexcept { return until_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::int64_t kSecond = 1'000'000'000;
  static constexpr int kMostDoublings = 6;  // 2^6 s

  const int free_;
  std::atomic<int> failures_{0};
  std::atomic<std::int64_t> until_{0};
};

}  // namespace npublas
