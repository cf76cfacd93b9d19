// # Limits of the moment
// What plans are made within: those of the open engine, or an RK3588's while it is closed. Kept in
// atomics, so that a decision reads them without a lock.
#pragma once

#include "npublas/math/plan.hpp"

namespace npublas {

PlanLimits current_limits(Element element) noexcept;

/// The largest K per context, and whether A and C may be row-major, by Element.
void set_limits(const PlanLimits& limits, const int (&depths)[kElements],
                const bool (&row_major)[kElements]) noexcept;
void reset_limits() noexcept;

}  // namespace npublas
