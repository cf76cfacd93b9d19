#include "timeline.hpp"

#include <algorithm>
#include <cmath>

namespace npublas::simulator {

Timeline::Run& Timeline::find(Ticket ticket) {
  std::deque<Run>& runs = runs_[std::size_t(ticket.core)];
  return *std::find_if(runs.rbegin(), runs.rend(),
                       [&](const Run& run) { return run.number == ticket.number; });
}

Timeline::Run* Timeline::head(const State& state, int core) {
  std::deque<Run>& runs = runs_[std::size_t(core)];
  const std::int64_t at = state.cores[std::size_t(core)].head - forgotten_[std::size_t(core)];
  return at < std::int64_t(runs.size()) ? &runs[std::size_t(at)] : nullptr;
}

double Timeline::start_of(const Run& run, const Core& core) const {
  return std::max(run.arrival.time + run.arrival.submit, core.previous_end + run.arrival.task);
}

/// Shares of their streaming that the runs do per nanosecond; 0 for those that don't stream.
std::array<double, kCores> Timeline::speeds(const State& state) {
  std::array<double, kCores> speed{};
  std::array<double, kCores> bytes{};  // of those that have no share of the memory yet
  int open = 0;
  for (std::size_t i = 0; i < kCores; ++i) {
    const Core& core = state.cores[i];
    if (!core.started || state.time < core.flows_from) continue;
    const Work& work = head(state, int(i))->arrival.work;
    speed[i] = 1 / work.alone;
    bytes[i] = work.bytes;
    open += work.bytes > 0;
  }
  double left = memory_;
  for (bool served = true; served && open;) {
    served = false;
    const double share = left / open;
    for (std::size_t i = 0; i < kCores; ++i) {
      if (bytes[i] == 0 || bytes[i] * speed[i] > share) continue;
      left -= bytes[i] * speed[i];
      bytes[i] = 0;
      --open;
      served = true;
    }
  }
  for (std::size_t i = 0; i < kCores; ++i) {
    if (bytes[i] > 0) speed[i] = left / open / bytes[i];
  }
  return speed;
}

/// To the next event: a run starts, begins to stream, or ends. False if there is none.
bool Timeline::step(State& state) {
  const std::array<double, kCores> speed = speeds(state);
  std::array<double, kCores> next;
  for (int i = 0; i < kCores; ++i) {
    const Core& core = state.cores[std::size_t(i)];
    const Run* const run = head(state, i);
    next[std::size_t(i)] = !run            ? std::numeric_limits<double>::infinity()
                           : !core.started ? start_of(*run, core)
                           : state.time < core.flows_from
                               ? core.flows_from
                               : state.time + core.to_do / speed[std::size_t(i)];
  }
  const auto first = std::min_element(next.begin(), next.end());
  if (std::isinf(*first)) return false;
  const double time = std::max(*first, state.time);
  for (std::size_t i = 0; i < kCores; ++i) {
    state.cores[i].to_do -= (time - state.time) * speed[i];
  }
  const int index = int(first - next.begin());
  Core& core = state.cores[std::size_t(index)];
  Run& run = *head(state, index);
  if (!core.started) {
    run.start = time;
    core.started = true;
    core.flows_from = time + run.arrival.work.fixed;
    core.to_do = 1;
  } else if (state.time >= core.flows_from) {
    run.end = time;
    core.previous_end = time;
    core.started = false;
    ++core.head;
  }
  state.time = time;
  return true;
}

/// Takes back what happened after `time`.
void Timeline::go_back(double time) {
  while (states_.size() > 1 && states_.back().time > time) states_.pop_back();
  for (std::size_t i = 0; i < kCores; ++i) {
    const Core& core = states_.back().cores[i];
    for (auto at = std::size_t(core.head - forgotten_[i]); at < runs_[i].size(); ++at) {
      Run& run = runs_[i][at];
      run.end = kUnknown;
      if (at != std::size_t(core.head - forgotten_[i]) || !core.started) run.start = kUnknown;
    }
  }
}

int Timeline::first_free(const Arrival& arrival) {
  State state = states_.back();
  while (step(state)) {
  }
  int best = 0;
  double earliest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kCores; ++i) {
    const double start = std::max(arrival.time + arrival.submit,
                                  state.cores[std::size_t(i)].previous_end + arrival.task);
    if (start < earliest) best = i, earliest = start;
  }
  return best;
}

Timeline::Ticket Timeline::add(Arrival arrival) {
  arrival.time = std::max(arrival.time, states_.front().time);
  if (arrival.core == kAnyCore) arrival.core = first_free(arrival);
  go_back(arrival.time);
  std::deque<Run>& runs = runs_[std::size_t(arrival.core)];
  const auto after =
      std::upper_bound(runs.begin(), runs.end(), arrival.time,
                       [](double time, const Run& run) { return time < run.arrival.time; });
  const Ticket ticket{arrival.core, added_++};
  runs.insert(after, Run{arrival, ticket.number});
  return ticket;
}

double Timeline::start(Ticket ticket) {
  end(ticket);
  return find(ticket).start;
}

double Timeline::end(Ticket ticket) {
  const Run& run = find(ticket);
  while (std::isnan(run.end)) {
    State state = states_.back();
    step(state);
    states_.push_back(state);
  }
  return run.end;
}

void Timeline::leave(Ticket ticket) { find(ticket).left = true; }

void Timeline::forget(double time) {
  while (states_.size() > 1 && states_[1].time <= time) states_.pop_front();
  for (std::size_t i = 0; i < kCores; ++i) {
    std::deque<Run>& runs = runs_[i];
    while (!runs.empty() && forgotten_[i] < states_.front().cores[i].head && runs.front().left) {
      runs.pop_front();
      ++forgotten_[i];
    }
  }
}

}  // namespace npublas::simulator
