#include "npublas/exec/job.hpp"

#include <algorithm>

#include "npublas/exec/bench.hpp"

namespace npublas::exec {
namespace {

int useful_threads(const Plan& plan, bool b_is_there, int threads) {
  const std::size_t packed =
      std::max(plan.a_slot_bytes(), b_is_there ? std::size_t(0) : plan.b_slot_bytes());
  return std::max(packed, plan.sum_slot_bytes()) <= kNotWorthWaking ? 1 : threads;
}

}  // namespace

Job::Job(const Plan& p, const Request& r, bool flushes, int host_threads, std::uint64_t name)
    : plan(p),
      request(r),
      flushes_subnormals(flushes),
      threads(useful_threads(p, r.weights != nullptr, host_threads)),
      product(name),
      schedule(p) {}

Job::~Job() = default;

}  // namespace npublas::exec
