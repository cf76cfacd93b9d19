#include "lock.hpp"

#include <pthread.h>

#include <vector>

namespace npublas::simulator {
namespace {

// Filled while the library is loaded and when a table is first used; never destroyed.
struct Locks {
  std::mutex mutex;
  std::vector<Lock*> all;
};
Locks& locks() {
  static Locks& value = *new Locks;
  return value;
}

void before_fork() {
  locks().mutex.lock();
  for (Lock* const lock : locks().all) lock->lock();
}

void after_fork() {
  for (Lock* const lock : locks().all) lock->unlock();
  locks().mutex.unlock();
}

}  // namespace

Lock::Lock() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(before_fork, after_fork, after_fork);
  const std::lock_guard guard(locks().mutex);
  locks().all.push_back(this);
}

}  // namespace npublas::simulator
