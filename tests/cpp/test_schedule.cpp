// The schedule is driven by random threads: whatever the order in which tasks end, every step of
// the product is done once, with its own tiles, and sums are added in the order of K.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "npublas/math/schedule.hpp"

using namespace npublas;

namespace {

using Tile = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // batch, row or column, k

Plan plan_of(const Shape& shape, int cores, std::int64_t block_rows, std::int64_t a_slots,
             std::int64_t b_slots) {
  return {.shape = shape,
          .method = Method::float16,
          .element = Element::float16,
          .parts = 1,
          .cores = cores,
          .layout = Layout::normal,
          .tile_rows = 4,
          .tile_depth = 32,
          .tile_columns = 32,
          .block_rows = block_rows,
          .block_columns = 32,
          .a_slots = a_slots,
          .b_slots = b_slots};
}

/// What was packed how often, and what came out.
struct Seen {
  std::map<Tile, int> packed_a, packed_b;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::int64_t> next_k;
  std::int64_t elements = 0;
};

/// Does a random one of the tasks that are possible, or ends one of those under way, until it is
/// finished.
Seen drive(const Plan& plan, unsigned seed) {
  Schedule schedule(plan);
  std::mt19937 random(seed);
  const auto one_of = [&](std::size_t count) { return std::size_t(random() % count); };
  std::vector<Task> under_way;
  std::vector<Tile> in_a(std::size_t(plan.a_slots)), in_b(std::size_t(plan.b_slots));
  std::set<std::pair<int, int>> sums_in_use;
  std::map<int, int> running;
  Seen seen;
  const auto a_of = [](const Step& s) { return Tile{s.batch, s.row, s.k}; };
  const auto b_of = [](const Step& s) { return Tile{s.batch, s.column, s.k}; };
  const auto uses = [&](bool a, std::int64_t slot) {
    return std::any_of(under_way.begin(), under_way.end(), [&](const Task& task) {
      if (task.kind == Task::Kind::pack_a) return a && task.step.a_slot == slot;
      if (task.kind == Task::Kind::pack_b) return !a && task.step.b_slot == slot;
      return (a ? task.step.a_slot : task.step.b_slot) == slot;
    });
  };
  while (!schedule.finished()) {
    std::optional<Task> task;
    if (one_of(3) != 0) {
      const auto stream = int(one_of(std::size_t(plan.cores)));
      if (running[stream] < kRunsInFlight) task = schedule.take_run(stream);
      if (task) ++running[stream];
    }
    if (!task && one_of(2) == 0) {
      const bool there_is = schedule.has_host_task();
      task = schedule.take_host_task();
      if (there_is) REQUIRE(task);
    }
    if (task) {
      const Step& step = task->step;
      switch (task->kind) {
        case Task::Kind::pack_a:
          REQUIRE_FALSE(uses(true, step.a_slot));
          in_a[std::size_t(step.a_slot)] = {-1, -1, -1};
          ++seen.packed_a[a_of(step)];
          break;
        case Task::Kind::pack_b:
          REQUIRE_FALSE(uses(false, step.b_slot));
          in_b[std::size_t(step.b_slot)] = {-1, -1, -1};
          ++seen.packed_b[b_of(step)];
          break;
        case Task::Kind::run:
          REQUIRE(in_a[std::size_t(step.a_slot)] == a_of(step));
          REQUIRE(in_b[std::size_t(step.b_slot)] == b_of(step));
          REQUIRE(step.sums < sum_buffers(plan));
          REQUIRE(sums_in_use.insert({task->stream, step.sums}).second);
          break;
        case Task::Kind::unpack:
          REQUIRE(in_a[std::size_t(step.a_slot)] == a_of(step));  // its notes are still there
          REQUIRE(in_b[std::size_t(step.b_slot)] == b_of(step));
          std::int64_t& k = seen.next_k[{step.batch, step.row, step.column}];
          REQUIRE(k == step.k);
          k += step.depth;
          REQUIRE(step.last_k == (k == plan.shape.k));
          if (step.last_k) seen.elements += step.rows * step.columns;
          break;
      }
      under_way.push_back(*task);
      continue;
    }
    if (under_way.empty()) {  // only chance has kept us from a task
      bool possible = schedule.has_host_task();
      for (int i = 0; i < plan.cores; ++i) possible |= schedule.can_run(i);
      REQUIRE(possible);
      continue;
    }
    const std::size_t which = one_of(under_way.size());
    const Task ended = under_way[which];
    under_way.erase(under_way.begin() + std::ptrdiff_t(which));
    if (ended.kind == Task::Kind::pack_a) in_a[std::size_t(ended.step.a_slot)] = a_of(ended.step);
    if (ended.kind == Task::Kind::pack_b) in_b[std::size_t(ended.step.b_slot)] = b_of(ended.step);
    if (ended.kind == Task::Kind::run) --running[ended.stream];
    if (ended.kind == Task::Kind::unpack) sums_in_use.erase({ended.stream, ended.step.sums});
    schedule.done(ended);
  }
  REQUIRE(under_way.empty());
  return seen;
}

}  // namespace

TEST_CASE("every element is unpacked once, whatever the order in which tasks end") {
  unsigned seed = 1;
  for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{1, 4, 32, 32}, Shape{1, 5, 33, 33},
                             Shape{3, 9, 70, 100}, Shape{1, 40, 96, 200}, Shape{5, 3, 31, 31}})
    for (const int cores : {1, 2, 3})
      for (const std::int64_t block_rows : {4, 12, 64})
        for (const std::int64_t slots : {1, 2, 5, 40})
          for (int times = 0; times < 5; ++times) {
            const Plan plan = plan_of(shape, cores, std::min(block_rows, shape.m), slots, slots);
            const Seen seen = drive(plan, seed++);
            CHECK(seen.elements == shape.batch * shape.m * shape.n);
          }
}

TEST_CASE("with room for all of them, every tile is packed once") {
  const Shape shape{2, 40, 96, 200};
  for (unsigned seed = 1; seed < 20; ++seed) {
    const Seen seen = drive(plan_of(shape, 3, 12, 70, 50), seed);
    for (const auto& [tile, times] : seen.packed_a) CHECK(times == 1);
    for (const auto& [tile, times] : seen.packed_b) CHECK(times == 1);
    CHECK(seen.packed_a.size() == 2 * 10 * 3);
    CHECK(seen.packed_b.size() == 2 * 7 * 3);
  }
}

TEST_CASE("with room for a row block, A is packed once though B is packed again") {
  const Shape shape{1, 40, 96, 320};
  const Seen seen = drive(plan_of(shape, 1, 12, 18, 6), 7);
  for (const auto& [tile, times] : seen.packed_a) CHECK(times == 1);
}

TEST_CASE("what a core misses first is done first") {
  Schedule schedule(plan_of({1, 40, 96, 32}, 1, 40, 40, 40));
  const auto next = [&] {
    const auto task = schedule.take_host_task();
    REQUIRE(task);
    return *task;
  };
  const Task b = next(), a = next();  // of the first step, B first
  CHECK(b.kind == Task::Kind::pack_b);
  CHECK(a.kind == Task::Kind::pack_a);
  CHECK(b.step.k == 0);
  CHECK(a.step.k == 0);
  CHECK_FALSE(schedule.can_run(0));
  schedule.done(b);
  CHECK_FALSE(schedule.can_run(0));
  schedule.done(a);
  CHECK(schedule.can_run(0));
  const auto run = schedule.take_run(0);
  REQUIRE(run);
  schedule.done(*run);
  int urgency = -1;
  const auto second = schedule.take_host_task(&urgency);  // the core stands still, sums have room
  REQUIRE(second);
  CHECK(urgency == 0);
  CHECK(second->kind == Task::Kind::pack_b);
  CHECK(second->step.k == 32);
}
