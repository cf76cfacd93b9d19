// # Timeline
// Three cores and one memory in ideal time: runs arrive, and this says when each starts and ends.
// It knows no clock and no threads, so that the same arrivals give the same ends, in whatever order
// they are added.
//
//   start      the later of   arrival + submit                    an idle core
//                             end of the run before + task        a queue: the submit is hidden
//   streaming  from start + fixed, at most at the speed that the run has alone
//   the memory is shared among those that stream, max-min fair: who asks for less than an equal
//   share gets what it asks for, the others share the rest
//
// A run that is added slows what is not over yet at its arrival, and so changes ends that were
// already told. The states at all events are kept to go back to, up to `forget`.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <limits>

#include "rates.hpp"

namespace npublas::simulator {

inline constexpr int kCores = 3;
inline constexpr int kAnyCore = -1;  // the one that could start it first

struct Arrival {
  int core = 0;
  double time = 0;
  double submit = 0;  // of an idle core
  double task = 0;    // behind another run
  Work work;
};

class Timeline {
 public:
  struct Ticket {
    int core = 0;
    std::int64_t number = 0;
  };

  explicit Timeline(double memory) : memory_(memory) {}
  /// GB/s of all cores, from now on.
  void set_memory(double memory) { memory_ = memory; }

  /// An arrival before what was forgotten counts as if it came then.
  Ticket add(Arrival arrival);
  /// Given all that has been added so far.
  double start(Ticket ticket);
  double end(Ticket ticket);
  /// The ticket is not asked for again.
  void leave(Ticket ticket);
  /// Nothing will arrive before `time` any more.
  void forget(double time);

 private:
  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  struct Run {
    Arrival arrival;
    std::int64_t number;
    double start = kUnknown, end = kUnknown;
    bool left = false;
  };
  struct Core {
    std::int64_t head = 0;  // the run that is on, or the next one; counted from the very first
    bool started = false;
    double flows_from = 0;
    double to_do = 1;  // the share of its streaming that is left
    double previous_end = -std::numeric_limits<double>::infinity();
  };
  struct State {
    double time = -std::numeric_limits<double>::infinity();
    std::array<Core, kCores> cores;
  };

  Run& find(Ticket ticket);
  Run* head(const State& state, int core);
  double start_of(const Run& run, const Core& core) const;
  std::array<double, kCores> speeds(const State& state);
  bool step(State& state);
  void go_back(double time);
  int first_free(const Arrival& arrival);

  double memory_;
  std::int64_t added_ = 0;
  std::array<std::deque<Run>, kCores> runs_;      // each in the order of arrival
  std::array<std::int64_t, kCores> forgotten_{};  // how many are no longer there
  std::deque<State> states_{State{}};             // at the events so far; the last is the latest
};

}  // namespace npublas::simulator
