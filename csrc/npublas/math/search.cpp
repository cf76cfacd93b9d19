#include "npublas/math/search.hpp"

#include <algorithm>
#include <array>

#include "npublas/base/integers.hpp"
#include "npublas/base/on_chip.hpp"
#include "npublas/math/cutting.hpp"

namespace npublas {
namespace {

constexpr std::int64_t kNarrowest = 64;        // splitting N below this costs more than it spreads
constexpr std::int64_t kWidest = 2048;         // longer rows of C are written slowly
constexpr std::int64_t kDeepestNormal = 8192;  // beyond, B is streamed for every row
// Steps of a core that hold their tiles at a time: those that run, are ready, and are unpacked.
constexpr std::int64_t kStepsAhead = 8;

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
using Widths = Choices<10>;
using Heights = Choices<20>;

Element element_of(const PlanQuery& query) {
  return query.method == Method::int4 ? query.way.element : element_of(query.method);
}

/// Rows of A beside each other in one run, for each row of a tile.
int rows_per_row(const PlanQuery& query, Layout layout) {
  if (query.method == Method::float32) return layout == Layout::normal ? 2 : 1;
  return query.method == Method::int4 && query.way.element == Element::int4 ? query.way.parts : 1;
}

std::int64_t most_rows(const PlanQuery& query, const PlanLimits& limits, Layout layout,
                       std::int64_t depth) {
  const int high = rows_per_row(query, layout);
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
  for (const std::int64_t width : {1024, 704, 512, 256}) {
    const std::int64_t parts = ceil_div(n, width);
    split(parts);
    split(round_up(parts, cores));
  }
  split(1);
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
  for (std::int64_t rows = most; rows >= 64; rows = rows * 2 / 3) at_most(rows);
  return heights;
}

/// The most slots of both kinds within the window and the files.
bool fits(const Plan& p, const PlanLimits& limits) {
  return p.window_bytes() <= limits.window_bytes && p.files() <= limits.files;
}

/// Row blocks and slots: as few tiles as need to be packed again, and as few slots as that takes.
bool give_slots(Plan& p, bool b_is_packed, const PlanLimits& limits) {
  const std::int64_t depths = p.depth_tiles(), panels = p.panels(), down = p.row_tiles();
  const std::int64_t all_a = down * depths * p.shape.batch;
  const std::int64_t all_b = panels * depths * p.shape.batch;
  const std::int64_t cores = p.cores;

  // Where B's tiles stay, a block is a tile high, so that the cores share the work evenly. The row
  // blocks that are under way, and the next one, have slots.
  p.block_rows = std::min(p.tile_rows, p.shape.m);
  const std::int64_t ahead = kStepsAhead * ceil_div(cores, std::min(panels, cores));
  p.a_slots = std::min(ahead + 2 * depths, all_a);
  const std::int64_t of_blocks = cores * std::max(kStepsAhead, 2 * depths);
  p.b_slots = std::min(b_is_packed || p.shape.batch > 1
                           ? std::max(of_blocks, b_is_packed ? 0 : panels * depths)
                           : panels * depths,
                       all_b);
  if (fits(p, limits)) return true;

  if (!b_is_packed) {
    // Two panels for each core stay, and A's tiles of as many rows as there is room for.
    p.b_slots = std::min(2 * cores * depths, all_b);
    for (std::int64_t blocks = 1; blocks <= down; blocks = std::max(blocks + 1, blocks * 5 / 4)) {
      const std::int64_t tiles = ceil_div(down, blocks);
      p.block_rows = std::min(tiles * p.tile_rows, p.shape.m);
      p.a_slots = std::min(tiles * depths, all_a);
      if (fits(p, limits)) return true;
    }
    p.b_slots = std::min(cores * depths, all_b);
    if (fits(p, limits)) return true;
  }
  // Less than that: tiles are packed again.
  while (p.a_slots > 1 || p.b_slots > 1) {
    std::int64_t& slots =
        p.a_slots * std::int64_t(p.a_slot_bytes()) >= p.b_slots * std::int64_t(p.b_slot_bytes()) &&
                p.a_slots > 1
            ? p.a_slots
        : p.b_slots > 1 ? p.b_slots
                        : p.a_slots;
    slots = ceil_div(slots, 2);
    if (fits(p, limits)) return true;
  }
  return fits(p, limits);
}

std::int64_t depth_for(const PlanQuery& query, const PlanLimits& limits) {
  if (query.packed) return query.packed->depth;
  return depth_of_tiles(query.shape.k, query.shape.n, query.method, limits.max_depth);
}

/// Calls `visit(plan)` for every candidate.
template <typename Visit>
void for_each_candidate(const PlanQuery& query, const PlanLimits& limits, Visit visit) {
  const Element element = element_of(query);
  const std::int64_t depth = depth_for(query, limits), surface = round_up(depth, kDepthStep);
  const Widths widths = widths_of(query, limits);
  for (const Layout layout : {Layout::normal, Layout::native}) {
    if (layout == Layout::normal && element == Element::int4) continue;
    const int high = rows_per_row(query, layout);
    const std::int64_t most = most_rows(query, limits, layout, surface);
    for (const std::int64_t width : widths) {
      const std::int64_t one_task =
          std::max<std::int64_t>(rows_of_one_task(element, layout, surface, width) / high, 4);
      for (const std::int64_t height : heights_of(query, most, one_task))
        visit(
            plan_of_tiles(query, limits, layout, height, depth, width, std::max(limits.cores, 1)));
    }
  }
}

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
    while (true) {
      const auto found = plan_of_tiles(query, limits, Layout::native, rows, depth, columns, cores);
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

std::optional<Plan> plan_of_tiles(const PlanQuery& query, const PlanLimits& limits, Layout layout,
                                  std::int64_t rows, std::int64_t depth, std::int64_t columns,
                                  int cores) {
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
         .b_slots = 1};
  if (p.surface_rows() > limits.max_rows) return std::nullopt;
  if (layout == Layout::normal && (element == Element::int4 || depth > kDeepestNormal))
    return std::nullopt;
  p.cores = int(std::min<std::int64_t>(cores, p.blocks()));
  if (!give_slots(p, query.packed.has_value(), limits)) return std::nullopt;
  p.cores = int(std::min<std::int64_t>(p.cores, p.blocks()));
  return p;
}

std::optional<Plan> plan(const PlanQuery& query, const PlanLimits& limits, const Rates& rates) {
  std::optional<Plan> best;
  double least = 0;
  for_each_candidate(query, limits, [&](const std::optional<Plan>& planned) {
    if (!planned) return;
    const double seconds = estimate(*planned, query.packed.has_value(), query.bytes, rates).seconds;
    if (best && seconds >= least) return;
    best = planned;
    least = seconds;
  });
  return best ? best : smallest(query, limits);
}

std::vector<Candidate> candidates(const PlanQuery& query, const PlanLimits& limits,
                                  const Rates& rates, std::size_t count) {
  std::vector<Candidate> found;
  for_each_candidate(query, limits, [&](const std::optional<Plan>& planned) {
    if (planned)
      found.push_back({*planned, estimate(*planned, query.packed.has_value(), query.bytes, rates)});
  });
  if (found.empty())
    if (const auto planned = smallest(query, limits))
      found.push_back({*planned, estimate(*planned, query.packed.has_value(), query.bytes, rates)});
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate.seconds < b.estimate.seconds;
  });
  if (found.size() > count) found.resize(count);
  return found;
}

}  // namespace npublas
