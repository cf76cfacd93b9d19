// # The clock
// In timed mode, what the chip and the driver do takes as long as they would need for it: a run
// ends when the timeline says so, and a cache sync, a bind and a create have their costs.
//
// Every thread has an ideal clock: the wall clock and an offset. Whoever wakes late from a run is
// behind the wall clock by that much, and its next run arrives when it would have arrived without
// it; so lateness never adds up. A thread that has waited for something else in between is no
// longer late: what it waited for would not have come any sooner. Short costs put a thread ahead of
// the wall clock; they are slept off when that is worth a sleep, or by the end of its next run.
// Nothing spins. What the simulator computes takes real time: a run whose product takes longer than
// it should ends late.
#pragma once

#include <cstdint>
#include <optional>

#include "timeline.hpp"

namespace npublas::simulator {

bool clock_is_on();

/// Costs of the calling thread.
void charge_sync(std::uint64_t bytes);
void charge_bind();
void charge_create();

/// A run of the calling thread, from the call on. Its end waits for the chip.
class TimedRun {
 public:
  TimedRun(const Cuttable& product, int core);
  ~TimedRun();
  TimedRun(const TimedRun&) = delete;
  TimedRun& operator=(const TimedRun&) = delete;

 private:
  struct Pending {
    Timeline::Ticket ticket;
    double arrival;  // by the ideal clock
    double called;   // by the wall clock
    std::int64_t streamed;
  };
  std::optional<Pending> pending_;  // none while the clock is off
};

}  // namespace npublas::simulator
