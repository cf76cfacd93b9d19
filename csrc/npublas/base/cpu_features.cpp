#include "npublas/base/cpu_features.hpp"

#include <atomic>
#include <string>

#include "npublas/base/error.hpp"

namespace npublas {
namespace {

Isa best() {
  Isa found = Isa::portable;
  for (const Isa isa : kAllIsas)
    if (has(isa)) found = isa;
  return found;
}

std::atomic<Isa>& in_use() {
  static std::atomic<Isa> isa = best();
  return isa;
}

}  // namespace

bool has(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::neon:
#if defined(__aarch64__)
      return true;
#else
      return false;
#endif
    // These ask the operating system too: whether it saves the registers.
    case Isa::avx2:
#if defined(__x86_64__)
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
#else
      return false;
#endif
    case Isa::avx512:
#if defined(__x86_64__)
      return has(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi");
#else
      return false;
#endif
  }
  return false;
}

Isa isa_in_use() { return in_use().load(std::memory_order_relaxed); }

void use_isa(Isa isa) {
  if (!has(isa))
    throw Error(ErrorKind::argument,
                std::string("this machine does not have ") + name_of(isa) + ".");
  in_use().store(isa, std::memory_order_relaxed);
}

}  // namespace npublas
