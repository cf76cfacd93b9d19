#include "npublas/engine/threads.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace npublas {

int cpus_allowed() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails where the kernel knows more CPUs than the set has room for (1024).
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return std::max(int(::sysconf(_SC_NPROCESSORS_ONLN)), 1);
}

int host_threads(int wanted, int most) noexcept {
  const int threads = wanted > 0 ? wanted : kDefaultThreads;
  return std::min({threads, most > 0 ? most : threads, cpus_allowed()});
}

}  // namespace npublas
