#include "npublas/engine/trial.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "npublas/base/error.hpp"

namespace npublas {
namespace {

/// Shared by the thread and whoever waits for it.
struct Trial {
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  Verdicts verdicts;
};

/// A wrong answer counts at once; a call that failed is tried again, like any product's.
exec::Verdict self_test(const std::shared_ptr<device::Runtime>& runtime, Element element,
                        int core) {
  exec::Verdict verdict;
  for (int tries = 0; tries < 3 && !verdict.right && !verdict.wrong; ++tries)
    verdict = exec::self_test(runtime, element, core);
  return verdict;
}

Verdicts verdicts_of(const std::shared_ptr<device::Runtime>& runtime, int cores) {
  Verdicts verdicts;
  for (const Element element : kAllElements) {
    exec::Verdict& verdict = verdicts[std::size_t(element)];
    verdict = {.right = true, .row_major = true, .flushes_subnormals = false};
    for (int core = 0; core < cores && verdict.right; ++core) {
      const exec::Verdict next = self_test(runtime, element, core);
      verdict.right = next.right;
      verdict.wrong = next.wrong;
      verdict.row_major &= next.row_major;
      verdict.problem = next.problem;
      verdict.flushes_subnormals |= next.flushes_subnormals && element == Element::float16;
    }
  }
  return verdicts;
}

}  // namespace

void learn_driver(device::Runtime& runtime) {
  for (int tries = 1;; ++tries) {
    try {
      return runtime.learn_driver();
    } catch (const Error&) {
      if (tries == 3) throw;
    }
  }
}

std::optional<Verdicts> try_device(std::shared_ptr<device::Runtime> runtime, int cores,
                                   std::chrono::milliseconds patience) {
  const auto trial = std::make_shared<Trial>();
  std::thread([trial, runtime = std::move(runtime), cores]() mutable {
    const Verdicts verdicts = verdicts_of(runtime, cores);
    runtime.reset();  // now, so that nothing of it is left when the engine is closed
    const std::lock_guard lock(trial->mutex);
    trial->verdicts = verdicts;
    trial->done = true;
    trial->finished.notify_all();
  }).detach();
  std::unique_lock lock(trial->mutex);
  if (!trial->finished.wait_for(lock, patience, [&] { return trial->done; })) return std::nullopt;
  return trial->verdicts;
}

}  // namespace npublas
