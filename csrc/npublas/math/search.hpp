// # Searching for a plan
// The few sensible ways to cut a product, of which the one wins that the cost model predicts to be
// the fastest:
//
//   for each layout of A and C:
//     for each width of B's tiles:    N in equal parts, a multiple of the cores or not; with packed
//                                     weights, theirs
//       for each height of A's tiles: what the chip takes in one task, parts and multiples of it,
//                                     and M in equal parts of no more
//         for each number of row blocks: each a tile high, or few; slots for all that is packed
//                                        once, or what the window has room for
//
// The cost model knows the middle of a product better than its two ends. So of plans with few runs
// the best few are replayed (replay.hpp), and that decides.
#pragma once

#include <vector>

#include "npublas/math/cost.hpp"
#include "npublas/math/plan.hpp"

namespace npublas {

struct Candidate {
  Plan plan;
  Estimate estimate;
};

/// The plan that is chosen, and the best one of each other (layout, width, height) that is legal
/// and fits, the fastest by its estimate first; at most `count`. Empty if not even one tile fits.
std::vector<Candidate> candidates(const PlanQuery& query, const PlanLimits& limits,
                                  const Rates& rates, std::size_t count);

/// What a candidate is made of.
struct Tiles {
  Layout layout;
  std::int64_t rows, depth, columns;
  std::int64_t row_blocks;  ///< of a product; more, if A's tiles of one don't fit
  int cores;
};

/// The plan of these tiles, with slots to suit. Nothing if they are not legal, or don't fit the
/// window with a single slot each. For those who compare all of them.
std::optional<Plan> plan_of_tiles(const PlanQuery& query, const PlanLimits& limits,
                                  const Tiles& tiles);

}  // namespace npublas
