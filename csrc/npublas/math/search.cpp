#include "npublas/math/search.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "npublas/base/integers.hpp"
#include "npublas/base/on_chip.hpp"
#include "npublas/math/cutting.hpp"
#include "npublas/math/replay.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kNarrowest = 64;        // splitting N below this costs more than it spreads
constexpr std::int64_t kLow = 256;             // a product of so many rows, or fewer
constexpr std::int64_t kWidest = 2048;         // longer rows of C are written slowly
constexpr std::int64_t kDeepestNormal = 8192;  // beyond, B is streamed for every row
// Steps of a core that hold their tiles at a time: those that run, are ready, and are unpacked.
constexpr std::int64_t kStepsAhead = 8;

// A width is tried with so many heights, and with all others if that is so near the best.
constexpr std::ptrdiff_t kFirstHeights = 3;
constexpr double kNear = 1.03;

// Of plans with few runs, where beginning and end count for much, the estimate is up to a fifth
// off. The best of them are replayed, and the fastest is taken: so many plans at most, with so many
// runs and tiles of B together, which take about half a microsecond each, and none that was
// estimated to take so much longer than the best.
constexpr int kReplayed = 6;
constexpr std::int64_t kMostReplayed = 44;
constexpr double kWorthReplaying = 1.25;
constexpr std::int64_t kFewRows = 512;  // heights up to here are in buckets of 16

/// A few different values, in the order in which they came.
template <int kMost>
class Choices {
 public:
  void add(std::int64_t value) {
    if (value > 0 && size_ < kMost && std::find(begin(), end(), value) == end())
      values_[std::size_t(size_++)] = value;
  }
  const std::int64_t* begin() const { return values_.data(); }
  const std::int64_t* end() const { return values_.data() + size_; }

 private:
  std::array<std::int64_t, std::size_t(kMost)> values_{};
  int size_ = 0;
};
constexpr int kMostWidths = 12;
using Widths = Choices<kMostWidths>;
using Heights = Choices<20>;

Element element_of(const PlanQuery& query) {
  return query.method == Method::int4 ? query.way.element : element_of(query.method);
}

/// Rows of A below each other in one run, for each row of a tile; `low`: A has a low part.
int rows_per_row(const PlanQuery& query, Layout layout, bool low) {
  if (query.method == Method::float32) return low && layout == Layout::normal ? 2 : 1;
  return query.method == Method::int4 && query.way.element == Element::int4 ? query.way.parts : 1;
}

std::int64_t most_rows(const PlanQuery& query, const PlanLimits& limits, Layout layout,
                       std::int64_t depth) {
  const int high = rows_per_row(query, layout, true);  // a low part may come unexpectedly
  std::int64_t rows = limits.max_rows / high / 4 * 4;
  if (element_of(query) == Element::int4)
    while (rows > 4 && !int4_is_one_task(high * rows, depth)) rows -= 4;
  return rows;
}

/// Equal parts of N: each of about these widths, as they fall, and a multiple of the cores of them.
Widths widths_of(const PlanQuery& query, const PlanLimits& limits) {
  Widths widths;
  if (query.packed) {
    widths.add(query.packed->columns);
    return widths;
  }
  const std::int64_t n = query.shape.n, step = column_step(element_of(query));
  const std::int64_t most = std::min(kWidest, limits.max_columns / step * step);
  const std::int64_t cores = limits.cores;
  const auto split = [&](std::int64_t parts) {
    const std::int64_t width = round_up(ceil_div(n, parts), step);
    if (width <= most && (width >= kNarrowest || parts == 1)) widths.add(width);
  };
  split(cores);
  // Below few rows, panels are what is packed beside others that run.
  const bool low = query.shape.m <= kLow;
  for (const std::int64_t width : {1024, 704, 512, 256, 128, 96}) {
    if (low ? width > 512 : width < 256) continue;
    const std::int64_t parts = ceil_div(n, width);
    split(parts);
    split(round_up(parts, cores));
  }
  if (!low) split(1);
  return widths;
}

Heights heights_of(const PlanQuery& query, std::int64_t most, std::int64_t one_task) {
  Heights heights;
  const std::int64_t m = query.shape.m;
  if (m <= 4) {
    heights.add(std::min(round_rows(m), std::max<std::int64_t>(most, 1)));
    return heights;
  }
  const auto at_most = [&](std::int64_t rows) {
    rows = std::min(rows, most);
    if (rows < 4) return;
    const std::int64_t even = round_rows(ceil_div(m, ceil_div(m, rows)));
    heights.add(std::min(even, most));
    if (even > rows && rows >= 16) heights.add(rows / 16 * 16);
  };
  for (const std::int64_t tasks : {1, 2, 4}) at_most(tasks * one_task);
  at_most(one_task / 2);
  at_most(ceil_div(m, 3));
  for (std::int64_t rows = most; rows >= 64; rows /= 2) at_most(rows);
  return heights;
}

/// Where B stays or is there, a block is a tile high, so that the cores share the work evenly;
/// where it is packed, the rows below a panel are what the device does meanwhile.
Choices<4> row_blocks_of(const PlanQuery& query, std::int64_t height) {
  Choices<4> blocks;
  const std::int64_t down = ceil_div(query.shape.m, height);
  blocks.add(down);
  if (query.packed) return blocks;
  for (const std::int64_t few : {1, 2})
    if (few < down) blocks.add(few);
  return blocks;
}

/// The most slots of both kinds within the window and the files.
bool fits(const Plan& p, const PlanLimits& limits) {
  return p.window_bytes() <= limits.window_bytes && p.files() <= limits.files;
}

/// Slots for all that is packed once, or as many as there is room for; `row_blocks` as asked for,
/// or more.
bool give_slots(Plan& p, bool b_is_packed, std::int64_t row_blocks, const PlanLimits& limits) {
  const std::int64_t depths = p.depth_tiles(), panels = p.panels(), batch = p.shape.batch;
  const std::int64_t down = ceil_div(p.shape.m, p.tile_rows), cores = p.cores;
  const std::int64_t all_a = batch * down * depths, all_b = batch * panels * depths;
  // Of both, at least those of the steps that are claimed.
  const std::int64_t ahead_a = kStepsAhead * ceil_div(cores, std::min(panels, cores)) + 2 * depths;
  const std::int64_t ahead_b = cores * std::max(kStepsAhead, 2 * depths);
  const auto with = [&](std::int64_t blocks, std::int64_t b_slots) {
    const std::int64_t tiles = ceil_div(down, blocks);
    p.block_rows = std::min(tiles * p.tile_rows, p.shape.m);
    // A row block's, which are packed for its first panels and stay for the others, while some
    // core is at the next one.
    const std::int64_t kept = tiles == 1 ? 0 : tiles * depths;
    p.a_slots = std::min(kept + ahead_a, all_a);
    p.b_slots = std::min(b_slots, all_b);
    return fits(p, limits);
  };

  // One row block needs no tile of B twice; several need all of B, which stays for them.
  const std::int64_t keep_b =
      b_is_packed ? ahead_b : std::max(ahead_b, (panels + (batch > 1 ? cores : 0)) * depths);
  if (with(row_blocks, row_blocks == 1 ? ahead_b : keep_b)) return true;
  if (row_blocks == 1 && with(1, cores * depths)) return true;
  if (!b_is_packed)
    for (std::int64_t blocks = 2; blocks < down; blocks = std::max(blocks + 1, blocks * 3 / 2))
      if (with(blocks, 2 * cores * depths)) return true;
  if (with(down, cores * depths)) return true;
  // Less than that: tiles are packed again.
  while (p.a_slots > 1 || p.b_slots > 1) {
    const bool of_a =
        p.b_slots == 1 || (p.a_slots > 1 && std::size_t(p.a_slots) * p.a_slot_bytes() >=
                                                std::size_t(p.b_slots) * p.b_slot_bytes());
    std::int64_t& slots = of_a ? p.a_slots : p.b_slots;
    slots = ceil_div(slots, 2);
    if (fits(p, limits)) return true;
  }
  return false;
}

std::int64_t depth_for(const PlanQuery& query, const PlanLimits& limits) {
  if (query.packed) return query.packed->depth;
  return depth_of_tiles(query.shape.k, query.shape.n, query.method, limits.max_depth);
}

/// Calls `visit(plan, estimate)` for every candidate: of each layout and width a few heights first,
/// and the others where that came near the best.
template <typename Visit>
void for_each_candidate(const PlanQuery& query, const PlanLimits& limits, const Rates& rates,
                        Visit visit) {
  const Element element = element_of(query);
  const std::int64_t depth = depth_for(query, limits), surface = round_up(depth, kDepthStep);
  const int cores = std::max(limits.cores, 1);
  const Widths widths = widths_of(query, limits);
  constexpr double kNone = std::numeric_limits<double>::infinity();
  std::array<double, 2 * kMostWidths> least;  // of a layout and a width
  least.fill(kNone);
  double best = kNone;

  const auto try_height = [&](Layout layout, std::int64_t width, std::int64_t height) {
    StepWork work;
    int worked_out = 0;  // for so many cores
    double seconds = kNone;
    for (const std::int64_t row_blocks : row_blocks_of(query, height)) {
      const auto found =
          plan_of_tiles(query, limits, {layout, height, depth, width, row_blocks, cores});
      if (!found) continue;
      if (worked_out != found->cores) work = work_of_step(*found, query.bytes, rates);
      worked_out = found->cores;
      const Estimate estimated = estimate(*found, work, query.packed.has_value(), rates);
      seconds = std::min(seconds, estimated.seconds);
      visit(*found, estimated);
    }
    return seconds;
  };
  for (const bool first : {true, false}) {
    std::size_t index = 0;
    for (const Layout layout : {Layout::normal, Layout::native}) {
      if (layout == Layout::normal && element == Element::int4) continue;
      const int high = rows_per_row(query, layout, query.low.a);
      const std::int64_t legal = most_rows(query, limits, layout, surface);
      for (const std::int64_t width : widths) {
        double& of_width = least[index++];
        if (!first && of_width > kNear * best) continue;
        const std::int64_t one_task =
            std::max<std::int64_t>(rows_of_one_task(element, layout, surface, width) / high, 4);
        // Native layouts have nothing to offer where B is streamed for many tasks.
        const std::int64_t most = layout == Layout::normal ? legal : std::min(legal, 2 * one_task);
        const Heights heights = heights_of(query, most, one_task);
        const std::int64_t* const few = std::min(heights.begin() + kFirstHeights, heights.end());
        for (const std::int64_t* height = first ? heights.begin() : few;
             height != (first ? few : heights.end()); ++height)
          of_width = std::min(of_width, try_height(layout, width, *height));
        best = std::min(best, of_width);
      }
    }
  }
}

/// The best few different plans, the best first.
class Finalists {
 public:
  void add(const Plan& plan, double seconds) {
    if (size_ == kReplayed && seconds >= plans_[kReplayed - 1].seconds) return;
    int at = size_;
    while (at > 0 && seconds < plans_[at - 1].seconds) --at;
    for (int i = 0; i < size_; ++i)
      if (plans_[i].seconds == seconds && plans_[i].plan == plan) return;
    size_ = std::min(size_ + 1, kReplayed);
    for (int i = size_ - 1; i > at; --i) plans_[i] = plans_[i - 1];
    plans_[at] = {plan, seconds};
  }

  bool empty() const { return size_ == 0; }

  const Plan& winner(const ReplayOptions& options, const Rates& rates) const {
    const auto effort = [&](const Plan& plan) {
      return plan.runs() +
             (options.b_is_packed ? 0 : plan.shape.batch * plan.panels() * plan.depth_tiles());
    };
    int replayed = 0;
    for (std::int64_t left = kMostReplayed; replayed < size_; ++replayed) {
      left -= effort(plans_[replayed].plan);
      if (left < 0 || plans_[replayed].seconds > kWorthReplaying * plans_[0].seconds) break;
    }
    int best = 0;
    double least = 0;
    for (int i = 0; i < replayed && replayed > 1; ++i) {
      const double seconds = replay(plans_[i].plan, options, rates).seconds;
      if (i > 0 && seconds >= least) continue;
      least = seconds;
      best = i;
    }
    return plans_[best].plan;
  }

 private:
  struct Finalist {
    Plan plan;
    double seconds;
  };
  Finalist plans_[kReplayed];
  int size_ = 0;
};

/// Where nothing of the above fits: smaller tiles, then fewer cores.
std::optional<Plan> smallest(const PlanQuery& query, const PlanLimits& limits) {
  const std::int64_t step = column_step(element_of(query)), depth = depth_for(query, limits);
  for (int cores = std::max(limits.cores, 1); cores >= 1; --cores) {
    std::int64_t columns = query.packed
                               ? query.packed->columns
                               : std::min(round_up(query.shape.n, step), std::int64_t(512));
    std::int64_t rows = std::min<std::int64_t>(
        round_rows(query.shape.m),
        std::min<std::int64_t>(256, most_rows(query, limits, Layout::native, round_up(depth, 32))));
    if (rows < 1) return std::nullopt;
    while (true) {
      const auto found = plan_of_tiles(
          query, limits,
          {Layout::native, rows, depth, columns, ceil_div(query.shape.m, rows), cores});
      if (found) return found;
      const bool narrower = !query.packed && columns > step;
      if (narrower && (columns >= rows || rows <= 4))
        columns = round_up(columns / 2, step);
      else if (rows > 4)
        rows = round_up(rows / 2, 4);
      else
        break;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Plan> plan_of_tiles(const PlanQuery& query, const PlanLimits& limits,
                                  const Tiles& tiles) {
  const auto& [layout, rows, depth, columns, row_blocks, cores] = tiles;
  const Element element = element_of(query);
  if (columns > limits.max_columns || columns % column_step(element) != 0) return std::nullopt;
  if (round_up(depth, kDepthStep) > limits.max_depth) return std::nullopt;
  if (rows < 1 || (rows != 1 && rows % 4 != 0)) return std::nullopt;
  Plan p{.shape = query.shape,
         .method = query.method,
         .element = element,
         .parts = query.method == Method::int4 && element == Element::int4 ? query.way.parts : 1,
         .cores = cores,
         .layout = layout,
         .tile_rows = rows,
         .tile_depth = depth,
         .tile_columns = columns,
         .block_rows = std::min(rows, query.shape.m),
         .block_columns = std::min(columns, query.shape.n),
         .a_slots = 1,
         .b_slots = 1,
         .low = query.low};
  if (p.surface_rows() > limits.max_rows) return std::nullopt;
  if (layout == Layout::normal &&
      (!limits.row_major || element == Element::int4 || depth > kDeepestNormal))
    return std::nullopt;
  p.cores = int(std::min<std::int64_t>(cores, p.blocks()));
  if (!give_slots(p, query.packed.has_value(), std::max<std::int64_t>(row_blocks, 1), limits))
    return std::nullopt;
  p.cores = int(std::min<std::int64_t>(p.cores, p.blocks()));
  return p;
}

std::optional<Plan> plan(const PlanQuery& query, const PlanLimits& limits, const Rates& rates) {
  // The same for all heights that share their contexts, lest one of them needs contexts of its own.
  PlanQuery searched = query;
  if (query.shape.m <= kFewRows) searched.shape.m = round_rows(query.shape.m);
  Finalists finalists;
  for_each_candidate(searched, limits, rates, [&](const Plan& found, const Estimate& estimated) {
    finalists.add(found, estimated.seconds);
  });
  if (finalists.empty()) return smallest(query, limits);
  const Plan& best =
      finalists.winner({.b_is_packed = query.packed.has_value(), .bytes = query.bytes}, rates);
  return plan_of_tiles(query, limits,
                       {best.layout, best.tile_rows, best.tile_depth, best.tile_columns,
                        ceil_div(best.shape.m, best.block_rows), limits.cores});
}

std::vector<Candidate> candidates(const PlanQuery& query, const PlanLimits& limits,
                                  const Rates& rates, std::size_t count) {
  std::vector<Candidate> found;
  for_each_candidate(query, limits, rates, [&](const Plan& plan, const Estimate& estimated) {
    found.push_back({plan, estimated});
  });
  if (found.empty())
    if (const auto plan = smallest(query, limits))
      found.push_back({*plan, estimate(*plan, query.packed.has_value(), query.bytes, rates)});
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate.seconds < b.estimate.seconds;
  });
  // Several numbers of row blocks may come to the same plan.
  found.erase(std::unique(found.begin(), found.end(),
                          [](const Candidate& a, const Candidate& b) { return a.plan == b.plan; }),
              found.end());
  const auto chosen = plan(query, limits, rates);
  const auto first = std::find_if(found.begin(), found.end(),
                                  [&](const Candidate& one) { return one.plan == chosen; });
  if (first != found.end())
    std::rotate(found.begin(), first, first + 1);
  else if (chosen)
    found.insert(found.begin(),
                 {*chosen, estimate(*chosen, query.packed.has_value(), query.bytes, rates)});
  if (found.size() > count) found.resize(count);
  return found;
}

}  // namespace npublas
