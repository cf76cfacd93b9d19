// # Plans of before
// Searching for a plan takes some microseconds, and programs ask for the same product again and
// again: each thread keeps the last few plans that it asked for, by all that they depend on.
#pragma once

#include <optional>
#include <vector>

#include "npublas/math/plan.hpp"
#include "npublas/math/search.hpp"

namespace npublas {

struct Planned {
  Plan plan;
  double npu_seconds;  ///< predicted by the current rates
};

/// The best plan by `rates_of_plans`; nothing if not even one tile fits.
std::optional<Planned> planned(const PlanQuery& query, const PlanLimits& limits);

/// The current rates or, if these were not measured, the target's: a plan for pessimistic rates
/// would be made for another machine than any.
const Rates& rates_of_plans() noexcept;

}  // namespace npublas
