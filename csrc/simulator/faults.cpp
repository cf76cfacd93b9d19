#include "faults.hpp"

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include "accounting.hpp"
#include "lock.hpp"
#include "report.hpp"

namespace npublas::simulator {
namespace {

constexpr std::array<const char*, kFaults> kNames = {
    "enomem",  "create_failure", "refused_mask", "bind_failure", "sync_failure", "submit_failure",
    "timeout", "timeout_status", "hang",         "zeros",        "lost_device",
};

struct Plan {
  bool armed = false;
  std::int64_t wait = 0;  // chances that pass before it fires
  std::int64_t left = 0;  // times that it still fires; negative: without end
  std::int64_t fired = 0;
};

Lock mutex;
std::array<Plan, kFaults> plans;
std::atomic<int> armed{0};  // so that a run without faults takes no lock

// Never destroyed: a thread may hang in it while the process ends.
struct Hung {
  std::mutex mutex;
  std::condition_variable released;
  std::uint64_t releases = 0;
};
Hung& hung() {
  static Hung& value = *new Hung;
  return value;
}

void put(Fault fault, const Plan& plan) {
  Plan& old = plans[int(fault)];
  armed.fetch_add(int(plan.armed) - int(old.armed));
  old = plan;
}

}  // namespace

int find_fault(std::string_view name) {
  for (int i = 0; i < kFaults; ++i) {
    if (name == kNames[i]) return i;
  }
  return -1;
}

const char* fault_name(int index) {
  return index >= 0 && index < kFaults ? kNames[index] : nullptr;
}

bool arm(Fault fault, std::int64_t nth, std::int64_t count) {
  if (nth < 1 || count < 0) return false;
  const std::lock_guard lock(mutex);
  put(fault, {.armed = true, .wait = nth - 1, .left = count ? count : -1});
  return true;
}

void disarm(Fault fault) {
  const std::lock_guard lock(mutex);
  Plan plan = plans[int(fault)];
  plan.armed = false;
  put(fault, plan);
}

void disarm_all() {
  const std::lock_guard lock(mutex);
  for (int i = 0; i < kFaults; ++i) put(Fault(i), {});
}

std::int64_t fired(Fault fault) {
  const std::lock_guard lock(mutex);
  return plans[int(fault)].fired;
}

bool strikes(Fault fault) {
  if (armed.load() == 0) return false;
  const std::lock_guard lock(mutex);
  Plan& plan = plans[int(fault)];
  if (!plan.armed || plan.left == 0) return false;
  if (plan.wait > 0) return --plan.wait, false;
  if (plan.left > 0) --plan.left;
  ++plan.fired;
  add(Counter::faults);
  log("fault: %s", kNames[int(fault)]);
  return true;
}

void hang() {
  Hung& h = hung();
  std::unique_lock lock(h.mutex);
  const std::uint64_t before = h.releases;
  h.released.wait(lock, [&] { return h.releases != before; });
}

void release_hung() {
  Hung& h = hung();
  const std::lock_guard lock(h.mutex);
  ++h.releases;
  h.released.notify_all();
}

}  // namespace npublas::simulator
