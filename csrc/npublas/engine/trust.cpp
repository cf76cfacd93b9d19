#include "npublas/engine/trust.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace npublas::trust {
namespace {

constexpr int kFailuresTolerated = 3;  // in a row
constexpr int kMostDoublings = 6;      // 2^6 s

struct Failure {
  std::mutex mutex;
  std::string text;
};

Failure* failure = new Failure;  // never destroyed, replaced in a forked child
std::atomic<unsigned> off{0};    // a bit per Element
std::atomic<int> failures{0};
std::atomic<std::int64_t> quarantined_until{0};
std::atomic<std::int64_t> busy_until{0};
constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t nanoseconds_now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void reset() {
  off = 0;
  failures = 0;
  quarantined_until = 0;
  busy_until = 0;
}

void turn_off(Element element) { off |= 1u << int(element); }

bool is_off(Element element) noexcept {
  return off.load(std::memory_order_relaxed) >> int(element) & 1u;
}

void note_success() noexcept { failures.store(0, std::memory_order_relaxed); }

void note_failure(const std::string& what) {
  {
    const std::lock_guard lock(failure->mutex);
    failure->text = what;
  }
  const int beyond = ++failures - kFailuresTolerated;
  if (beyond < 0) return;
  quarantined_until = nanoseconds_now() + (kSecond << std::min(beyond, kMostDoublings));
}

bool quarantined() noexcept {
  const std::int64_t until = quarantined_until.load(std::memory_order_relaxed);
  return until != 0 && nanoseconds_now() < until;
}

std::string last_failure() {
  const std::lock_guard lock(failure->mutex);
  return failure->text;
}

void note_busy() noexcept { busy_until = nanoseconds_now() + kSecond; }

bool busy() noexcept {
  const std::int64_t until = busy_until.load(std::memory_order_relaxed);
  return until != 0 && nanoseconds_now() < until;
}

void restart_after_fork() {
  failure = new Failure;
  reset();
}

}  // namespace npublas::trust
