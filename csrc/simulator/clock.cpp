#include "clock.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "accounting.hpp"
#include "lock.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

// A short sleep ends some 20 µs late on a virtual machine, never less than 15; where it is less, a
// second sleep follows. The longer a sleep, the later it ends, since the processor sleeps deeper:
// 50 to 100 µs after 2 ms. So the last part of a long one is a sleep of its own.
constexpr double kLeastLateness = 18'000;
constexpr double kLongSleep = 1'000'000;
constexpr double kLastSleep = 100'000;
// Shorter debts wait for company, those of binds for the run that follows.
constexpr double kWorthSleeping = 50'000;
constexpr double kBindsWorthSleeping = 200'000;
// How far a thread may be behind the wall clock. Sleeps end later than that only on a machine that
// has other things to do.
constexpr double kMostBehind = 1'000'000;
// Arrivals don't lie further back than that.
constexpr double kForgetAfter = 2 * kMostBehind;

thread_local double ahead = 0;  // of the wall clock; negative is behind it
thread_local long waits = 0;    // of the calling thread, when it was found to be behind

std::int64_t monotonic() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// Times count from when the library was loaded, so that a double holds fractions of nanoseconds.
const std::int64_t epoch = monotonic();

double wall() { return double(monotonic() - epoch); }

void sleep_once(double time) {
  const std::int64_t at = epoch + std::int64_t(time) + 1;
  const timespec deadline{.tv_sec = at / 1'000'000'000, .tv_nsec = at % 1'000'000'000};
  // The kernel gathers wake-ups within 50 µs unless a thread asks for less.
  const int slack = prctl(PR_GET_TIMERSLACK);
  prctl(PR_SET_TIMERSLACK, 1ul);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr) == EINTR) {
  }
  if (slack > 0) prctl(PR_SET_TIMERSLACK, static_cast<unsigned long>(slack));
}

void sleep_until(double time) {
  if (time - wall() > kLongSleep) sleep_once(time - kLastSleep);
  sleep_once(time - kLeastLateness);
  while (wall() < time) sleep_once(time);
}

/// How often the calling thread has given the CPU away to wait for something.
long waits_so_far() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

/// When the calling thread calls, by its ideal clock.
double ideal(double now) {
  if (ahead < 0) ahead = waits_so_far() == waits ? std::max(ahead, -kMostBehind) : 0;
  return now + ahead;
}

/// The calling thread goes on from here, and should have gone on at `time`.
void go_on_from(double time) {
  ahead = time - wall();
  if (ahead < 0) waits = waits_so_far();
}

/// `worth_sleeping`: debts up to that wait for company.
void charge(double cost, double worth_sleeping = kWorthSleeping) {
  add(Counter::host_ns, std::int64_t(cost));
  const double now = wall();
  const double until = ideal(now) + cost;
  ahead = until - now;
  if (ahead < worth_sleeping) return;
  sleep_until(until);
  go_on_from(until);
}

struct Chip {
  Lock mutex;
  Timeline timeline{1};
};
Chip& chip() {
  static Chip& value = *new Chip;
  return value;
}

double end_of(Timeline::Ticket ticket) {
  Chip& c = chip();
  const std::lock_guard lock(c.mutex);
  return c.timeline.end(ticket);
}

}  // namespace

bool clock_is_on() { return get(Setting::clock) != kOff; }

void charge_sync(std::uint64_t bytes) {
  if (!clock_is_on()) return;
  const Rates rates = current_rates();
  charge(rates.sync + double(bytes) / rates.sync_rate);
}

// A bind is followed by a run, which pays for it; sleeping here, a careful program would hold the
// lock that keeps other threads from binding at the same time, for ten binds at once.
void charge_bind() {
  if (clock_is_on()) charge(current_rates().bind, kBindsWorthSleeping);
}

void charge_create() {
  if (clock_is_on()) charge(current_rates().create);
}

TimedRun::TimedRun(const Cuttable& product, int core) {
  if (!clock_is_on()) return;
  const double now = wall();
  const Rates rates = current_rates();
  const Cut cuts = cut(product);
  const double arrival = ideal(now);
  Chip& c = chip();
  const std::lock_guard lock(c.mutex);
  c.timeline.set_memory(rates.memory);
  c.timeline.forget(now - kForgetAfter);
  const Timeline::Ticket ticket =
      c.timeline.add({core, arrival, rates.submit, rates.task, work(product, cuts, rates)});
  pending_ = Pending{ticket, arrival, now, cuts.streamed()};
}

TimedRun::~TimedRun() {
  if (!pending_) return;
  const Pending& run = *pending_;
  const double computed = wall() - run.called;
  // Runs that arrive meanwhile make it later.
  double end = end_of(run.ticket);
  while (wall() < end) {
    sleep_until(end);
    end = end_of(run.ticket);
  }
  Chip& c = chip();
  double busy = 0;
  {
    const std::lock_guard lock(c.mutex);
    busy = end - c.timeline.start(run.ticket);
    c.timeline.leave(run.ticket);
  }
  constexpr Counter kBusy[kCores] = {Counter::busy_ns_core_0, Counter::busy_ns_core_1,
                                     Counter::busy_ns_core_2};
  add(kBusy[run.ticket.core], std::int64_t(busy));
  add(Counter::streamed_bytes, run.streamed);
  go_on_from(std::max(end, run.arrival + computed));
}

}  // namespace npublas::simulator
