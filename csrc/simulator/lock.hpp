// # Locks that survive a fork
// Python programs fork (multiprocessing), also while another thread is inside of the simulator.
// Each lock is taken before the fork and given back on both sides, so that the child can go on.
#pragma once

#include <mutex>

namespace npublas::simulator {

/// A mutex that lives as long as the process. No thread holds two of them.
class Lock {
 public:
  Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace npublas::simulator
