// # Plans of before
// Searching for a plan takes some microseconds, and programs ask for the same product again and
// again: each thread keeps the last few plans that it asked for, by all that they depend on.
#pragma once

#include <optional>

#include "npublas/math/plan.hpp"

namespace npublas {

/// `plan(query, limits, rates)`, but by the target's rates if these were not measured: a plan for
/// pessimistic rates would be made for another machine than any.
std::optional<Plan> planned(const PlanQuery& query, const PlanLimits& limits, const Rates& rates);

}  // namespace npublas
