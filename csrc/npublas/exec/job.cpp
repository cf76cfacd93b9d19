#include "npublas/exec/job.hpp"

#include "npublas/exec/bench.hpp"

namespace npublas::exec {

Job::Job(const Plan& p, const Request& r, bool flushes, std::uint64_t name)
    : plan(p), request(r), flushes_subnormals(flushes), product(name), schedule(p) {}

Job::~Job() = default;

}  // namespace npublas::exec
