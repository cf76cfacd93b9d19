// # The shop
// What the threads share, whatever job they work on.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <semaphore>

#include "npublas/exec/job.hpp"
#include "npublas/exec/trace.hpp"
#include "npublas/exec/window.hpp"

namespace npublas::exec {

/// Moves what the CPU or the NPU wrote to where the other sees it, from any thread. A sync goes
/// through a context, and one context is for one thread at a time: so each borrows one.
class Syncs {
 public:
  Syncs(std::shared_ptr<device::Runtime> runtime, Window& window);
  void to_device(const Job& job, device::Memory& memory);
  void from_device(const Job& job, device::Memory& memory);
  /// Makes the contexts that so many threads need at a time, so that none is made while cores wait.
  void prepare(const Job& job, int threads);
  /// The contexts that are alive because of it at most; the plans' room is without them.
  static constexpr int kAtOnce = 6;

 private:
  template <typename Sync>
  void with_context(const Job& job, std::size_t bytes, Sync sync);

  std::shared_ptr<device::Runtime> runtime_;
  Window& window_;
  std::counting_semaphore<kAtOnce> free_{kAtOnce};
  std::array<std::atomic<int>, kElements> prepared_{};
};

struct Shop {
  Window& window;
  Work& work;
  Syncs& syncs;
};

/// Adds the time of its scope to a counter, and notes it for whoever records.
class Timed {
 public:
  Timed(std::atomic<std::uint64_t>& nanoseconds, trace::Act act, const Job& job,
        std::size_t bytes = 0)
      : nanoseconds_(nanoseconds),
        since_(std::chrono::steady_clock::now()),
        span_(act, trace::here, job.product, bytes) {}
  ~Timed() {
    const auto spent = std::chrono::nanoseconds(std::chrono::steady_clock::now() - since_).count();
    nanoseconds_.fetch_add(std::uint64_t(spent), std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t>& nanoseconds_;
  std::chrono::steady_clock::time_point since_;
  const trace::Span span_;
};

}  // namespace npublas::exec
