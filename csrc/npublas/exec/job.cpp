#include "npublas/exec/job.hpp"

#include "npublas/exec/bench.hpp"

namespace npublas::exec {

Job::Job(const Plan& p, const Request& r, bool flushes, int host_threads, std::uint64_t name)
    : plan(p),
      request(r),
      flushes_subnormals(flushes),
      threads(host_threads),
      product(name),
      schedule(p) {}

Job::~Job() = default;

}  // namespace npublas::exec
