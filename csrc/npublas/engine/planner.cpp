#include "npublas/engine/planner.hpp"

#include <array>
#include <cstddef>
#include <memory>

namespace npublas {
namespace {

struct Entry {
  PlanQuery query{};
  PlanLimits limits;
  Rates rates;
  std::optional<Plan> plan;
  bool used = false;
};

constexpr std::size_t kEntries = 64;

std::size_t place_of(const PlanQuery& query) {
  std::uint64_t hash = std::uint64_t(query.method);
  for (const std::int64_t size : {query.shape.batch, query.shape.m, query.shape.k, query.shape.n})
    hash = (hash ^ std::uint64_t(size)) * 0x9e3779b97f4a7c15;
  return std::size_t(hash >> 58);
}
static_assert(kEntries == 1 << 6);

}  // namespace

std::optional<Plan> planned(const PlanQuery& query, const PlanLimits& limits, const Rates& rates) {
  static thread_local std::unique_ptr<std::array<Entry, kEntries>> entries;
  const Rates by = rates.measured ? rates : target_rates();
  if (!entries) entries = std::make_unique<std::array<Entry, kEntries>>();
  Entry& entry = (*entries)[place_of(query)];
  if (!entry.used || entry.query != query || entry.limits != limits || entry.rates != by)
    entry = {query, limits, by, plan(query, limits, by), true};
  return entry.plan;
}

}  // namespace npublas
