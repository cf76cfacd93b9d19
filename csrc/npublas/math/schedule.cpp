#include "npublas/math/schedule.hpp"

#include <algorithm>

#include "npublas/base/integers.hpp"

namespace npublas {
namespace {

/// Steps of a stream that hold their tiles: two that run, two ready behind them, and those whose
/// sums wait to be unpacked.
constexpr std::size_t kClaims = 6;

/// As many as fall to a core if all get the same.
std::int64_t steps_of_core(const Plan& plan) {
  return ceil_div(plan.blocks(), std::int64_t(plan.cores)) *
         ceil_div(plan.block_rows, plan.tile_rows) * plan.depth_tiles();
}

}  // namespace

int runs_at_once(const Plan& plan) {
  return int(std::min<std::int64_t>(kRunsInFlight, steps_of_core(plan)));
}

int sum_buffers(const Plan& plan) {
  return int(std::min<std::int64_t>(kSumSlots, steps_of_core(plan)));
}

Schedule::Schedule(const Plan& plan)
    : plan_(plan),
      blocks_(plan.blocks()),
      buffers_(sum_buffers(plan)),
      streams_(std::size_t(plan.cores)),
      a_(std::size_t(plan.a_slots)),
      b_(std::size_t(plan.b_slots)) {
  claim_all();
}

std::optional<Block> Schedule::take_block() {
  if (next_block_ == blocks_) return std::nullopt;
  return plan_.block(next_block_++);
}

bool Schedule::finished() const {
  return packing_ == 0 && std::all_of(streams_.begin(), streams_.end(), [](const Stream& stream) {
           return !stream.block && stream.pending.empty();
         });
}

std::optional<std::size_t> Schedule::find(const std::vector<Slot>& slots, const Tile& tile) const {
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (slots[i].state != Slot::State::empty && slots[i].tile == tile) return i;
  return std::nullopt;
}

/// True if the present block of a stream needs the tile, or one of those that are taken next.
bool Schedule::is_needed_soon(const Tile& tile, bool is_b) const {
  const auto needs = [&](const Block& block) {
    if (block.batch != tile.batch) return false;
    if (is_b) return block.column == tile.at;
    return tile.at >= block.row && tile.at < block.row + block.rows;
  };
  for (const Stream& stream : streams_)
    if (stream.block && needs(*stream.block)) return true;
  for (std::int64_t i = next_block_; i < std::min(next_block_ + plan_.cores, blocks_); ++i)
    if (needs(plan_.block(i))) return true;
  return false;
}

/// The slot whose content is missed least; nothing if all are claimed, or, `gently`, needed soon.
std::optional<std::size_t> Schedule::make_room(const std::vector<Slot>& slots, bool for_b,
                                               bool gently) const {
  std::optional<std::size_t> best;
  bool best_is_needed = true;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots[i];
    if (slot.state == Slot::State::empty) return i;
    if (slot.claims > 0 || slot.state != Slot::State::packed) continue;
    const bool needed = is_needed_soon(slot.tile, for_b);
    if (gently && needed) continue;
    if (best &&
        (needed > best_is_needed || (needed == best_is_needed && slot.used >= slots[*best].used)))
      continue;
    best = i;
    best_is_needed = needed;
  }
  return best;
}

/// Claims the next step of a stream. False if there is none, or no slot for one of its tiles.
bool Schedule::claim(Stream& stream) {
  if (stream.pending.size() == kClaims) return false;
  if (!stream.block) {
    stream.block = take_block();
    if (!stream.block) return false;
    stream.m = stream.k = 0;
  }
  const Block& block = *stream.block;
  const Tile a{block.batch, block.row + stream.m, stream.k};
  const Tile b{block.batch, block.column, stream.k};
  const auto a_found = find(a_, a), b_found = find(b_, b);
  const auto a_slot = a_found ? a_found : make_room(a_, false, false);
  const auto b_slot = b_found ? b_found : make_room(b_, true, false);
  if (!a_slot || !b_slot) return false;
  const auto hold = [&](Slot& slot, const Tile& tile, bool found) {
    if (!found) slot = {.tile = tile, .state = Slot::State::wanted};
    ++slot.claims;
    slot.used = ++clock_;
  };
  hold(a_[*a_slot], a, a_found.has_value());
  hold(b_[*b_slot], b, b_found.has_value());

  Step step{.batch = block.batch,
            .row = block.row + stream.m,
            .rows = std::min(plan_.tile_rows, block.rows - stream.m),
            .column = block.column,
            .columns = block.columns,
            .k = stream.k,
            .depth = std::min(plan_.tile_depth, plan_.shape.k - stream.k),
            .a_slot = std::int64_t(*a_slot),
            .b_slot = std::int64_t(*b_slot)};
  step.last_k = step.k + step.depth == plan_.shape.k;
  stream.pending.push_back({step});
  stream.k += plan_.tile_depth;
  if (stream.k >= plan_.shape.k) {
    stream.k = 0;
    stream.m += plan_.tile_rows;
    if (stream.m >= block.rows) stream.block.reset();
  }
  return true;
}

/// A step of each stream in turn, so that none takes all the slots.
void Schedule::claim_all() {
  for (bool more = true; more;) {
    more = false;
    for (Stream& stream : streams_) more |= claim(stream);
  }
}

std::size_t Schedule::first_not_run(const Stream& stream) const {
  std::size_t i = 0;
  while (i < stream.pending.size() && stream.pending[i].phase != Phase::claimed) ++i;
  return i;
}

int Schedule::free_sums(const Stream& stream) const {
  return buffers_ - int(std::count(stream.sums_in_use.begin(), stream.sums_in_use.end(), true));
}

bool Schedule::can_run(int stream) const {
  const Stream& s = streams_[std::size_t(stream)];
  const std::size_t i = first_not_run(s);
  if (i == s.pending.size()) return false;
  const Step& step = s.pending[i].step;
  return a_[std::size_t(step.a_slot)].state == Slot::State::packed &&
         b_[std::size_t(step.b_slot)].state == Slot::State::packed && free_sums(s) > 0;
}

std::optional<Task> Schedule::take_run(int stream) {
  if (!can_run(stream)) return std::nullopt;
  Stream& s = streams_[std::size_t(stream)];
  Pending& pending = s.pending[first_not_run(s)];
  const auto free = std::find(s.sums_in_use.begin(), s.sums_in_use.end(), false);
  *free = true;
  pending.phase = Phase::running;
  ++s.running;
  pending.step.sums = int(free - s.sums_in_use.begin());
  return Task{Task::Kind::run, stream, pending.step};
}

/// The packing of one of the tiles of a step, if it has not begun.
std::optional<Task> Schedule::pack(int stream, const Step& step) {
  // B first: it takes longer.
  if (Slot& b = b_[std::size_t(step.b_slot)]; b.state == Slot::State::wanted) {
    b.state = Slot::State::packing;
    ++packing_;
    return Task{Task::Kind::pack_b, stream, step};
  }
  if (Slot& a = a_[std::size_t(step.a_slot)]; a.state == Slot::State::wanted) {
    a.state = Slot::State::packing;
    ++packing_;
    return Task{Task::Kind::pack_a, stream, step};
  }
  return std::nullopt;
}

/// A tile of B for one of the blocks that are taken next. They are nobody's yet: a block goes to
/// the core that comes first.
std::optional<Task> Schedule::pack_ahead() {
  for (std::int64_t i = next_block_; i < std::min(next_block_ + plan_.cores, blocks_); ++i) {
    const Block block = plan_.block(i);
    for (std::int64_t k = 0; k < plan_.shape.k; k += plan_.tile_depth) {
      const Tile tile{block.batch, block.column, k};
      if (find(b_, tile)) continue;
      const auto slot = make_room(b_, true, true);
      if (!slot) return std::nullopt;
      b_[*slot] = {.tile = tile, .state = Slot::State::packing, .used = ++clock_};
      ++packing_;
      const Step step{.batch = block.batch,
                      .column = block.column,
                      .columns = block.columns,
                      .k = k,
                      .depth = std::min(plan_.tile_depth, plan_.shape.k - k),
                      .b_slot = std::int64_t(*slot)};
      return Task{Task::Kind::pack_b, 0, step};
    }
  }
  return std::nullopt;
}

bool Schedule::is_wanted(const Step& step) const {
  return a_[std::size_t(step.a_slot)].state == Slot::State::wanted ||
         b_[std::size_t(step.b_slot)].state == Slot::State::wanted;
}

/// What a core misses first, as a number of runs from now.
Schedule::Choice Schedule::choose() const {
  Choice best;
  const auto consider = [&](std::size_t stream, int urgency, bool unpack) {
    if (best.stream < 0 || urgency < best.urgency) best = {int(stream), urgency, unpack};
  };
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    const Stream& stream = streams_[i];
    int ahead = 0;  // runs that can go on without it
    for (const Pending& pending : stream.pending) {
      if (pending.phase == Phase::claimed && is_wanted(pending.step)) {
        consider(i, ahead, false);
        break;
      }
      if (pending.phase == Phase::claimed || pending.phase == Phase::running) ++ahead;
    }
    if (!stream.unpacking && !stream.pending.empty() && stream.pending.front().phase == Phase::ran)
      consider(i, stream.running + free_sums(stream), true);
  }
  return best;
}

bool Schedule::has_host_task() const { return choose().stream >= 0; }

std::optional<Task> Schedule::take_host_task(int* urgency) {
  const Choice best = choose();
  if (urgency) *urgency = best.stream < 0 ? kSumSlots + kRunsInFlight : best.urgency;
  if (best.stream < 0) return pack_ahead();
  Stream& stream = streams_[std::size_t(best.stream)];
  if (best.unpack) {
    stream.unpacking = true;
    stream.pending.front().phase = Phase::unpacking;
    return Task{Task::Kind::unpack, best.stream, stream.pending.front().step};
  }
  const auto wanting =
      std::find_if(stream.pending.begin(), stream.pending.end(), [&](const Pending& pending) {
        return pending.phase == Phase::claimed && is_wanted(pending.step);
      });
  return pack(best.stream, wanting->step);
}

void Schedule::done(const Task& task) {
  Stream& stream = streams_[std::size_t(task.stream)];
  switch (task.kind) {
    case Task::Kind::pack_a:
      a_[std::size_t(task.step.a_slot)].state = Slot::State::packed;
      --packing_;
      return;
    case Task::Kind::pack_b:
      b_[std::size_t(task.step.b_slot)].state = Slot::State::packed;
      --packing_;
      claim_all();  // one that was packed ahead may be given up for a step that needs its slot
      return;
    case Task::Kind::run:
      for (Pending& pending : stream.pending)
        if (pending.phase == Phase::running && pending.step.sums == task.step.sums)
          pending.phase = Phase::ran;
      --stream.running;
      return;
    case Task::Kind::unpack:
      stream.unpacking = false;
      stream.sums_in_use[std::size_t(task.step.sums)] = false;
      --a_[std::size_t(task.step.a_slot)].claims;
      --b_[std::size_t(task.step.b_slot)].claims;
      stream.pending.pop_front();
      claim_all();
      return;
  }
}

}  // namespace npublas
