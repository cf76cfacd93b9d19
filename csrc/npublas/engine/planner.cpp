#include "npublas/engine/planner.hpp"

#include <array>
#include <cstddef>
#include <memory>

#include "npublas/engine/tuning.hpp"

namespace npublas {
namespace {

struct Entry {
  PlanQuery query{};
  PlanLimits limits;
  std::uint64_t rates = 0;  // their generation, which is never 0
  std::optional<Planned> planned;
};

constexpr std::size_t kEntries = 64;
static_assert(kEntries == 1 << 6);

std::size_t place_of(const PlanQuery& query) {
  std::uint64_t hash = std::uint64_t(query.method) * 8 + std::uint64_t(query.way.element) * 2 +
                       std::uint64_t(query.packed.has_value()) + std::uint64_t(query.low.a) * 64 +
                       std::uint64_t(query.low.b) * 128;
  for (const std::int64_t size : {query.shape.batch, query.shape.m, query.shape.k, query.shape.n})
    hash = (hash ^ std::uint64_t(size)) * 0x9e3779b97f4a7c15;
  return std::size_t(hash >> 58);
}

}  // namespace

const Rates& rates_of_plans() noexcept {
  static constexpr Rates target = target_rates();
  const Rates& rates = current_rates();
  return rates.measured ? rates : target;
}

std::optional<Planned> planned(const PlanQuery& query, const PlanLimits& limits) {
  static thread_local std::unique_ptr<std::array<Entry, kEntries>> entries;
  if (!entries) entries = std::make_unique<std::array<Entry, kEntries>>();
  const std::uint64_t generation = rates_generation();
  Entry& entry = (*entries)[place_of(query)];
  if (entry.rates != generation || entry.query != query || entry.limits != limits) {
    entry = {query, limits, generation, std::nullopt};
    if (const auto found = plan(query, limits, rates_of_plans()))
      entry.planned = {
          *found, estimate(*found, query.packed.has_value(), query.bytes, current_rates()).seconds};
  }
  return entry.planned;
}

}  // namespace npublas
