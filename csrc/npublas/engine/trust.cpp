#include "npublas/engine/trust.hpp"

#include <atomic>
#include <cstdint>
#include <mutex>

#include "npublas/engine/backoff.hpp"

namespace npublas::trust {
namespace {

struct Failure {
  std::mutex mutex;
  std::string text;
};

Failure* failure = new Failure;   // never destroyed, replaced in a forked child
std::atomic<unsigned> off{0};     // a bit per Element
constinit Backoff quarantine(2);  // from the third product in a row that failed
std::atomic<std::int64_t> busy_until{0};
constexpr std::int64_t kSecond = 1'000'000'000;

}  // namespace

void reset() {
  off = 0;
  quarantine.reset();
  busy_until = 0;
}

void turn_off(Element element) { off |= 1u << int(element); }

bool is_off(Element element) noexcept {
  return off.load(std::memory_order_relaxed) >> int(element) & 1u;
}

void note_success() noexcept { quarantine.note_success(); }

void note_failure(const std::string& what) {
  {
    const std::lock_guard lock(failure->mutex);
    failure->text = what;
  }
  quarantine.note_failure();
}

bool quarantined() noexcept { return quarantine.waits(); }

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
