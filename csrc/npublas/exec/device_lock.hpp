// # One process at a time
// The vendor's driver arbitrates jobs of several processes, but some versions of it fail or panic
// when it has to. An advisory lock on a file keeps two processes that use npublas apart.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>

namespace npublas::exec {

class DeviceLock {
 public:
  /// Opens (creates) the file. An empty path, or one that can't be opened, means no lock.
  explicit DeviceLock(const std::string& path);
  ~DeviceLock();
  DeviceLock(const DeviceLock&) = delete;
  DeviceLock& operator=(const DeviceLock&) = delete;

  /// Waits for the lock; false if another process held it for longer than `patience`. Threads of
  /// this process share it: it is given up when as many have released it as have acquired it, and
  /// who comes late waits a moment for that, so that other processes have their turn.
  bool acquire(std::chrono::milliseconds patience);
  void release();
  /// Why there is no lock, empty if there is one or none was asked for.
  const std::string& problem() const { return problem_; }

 private:
  bool lock_file(std::chrono::milliseconds patience) const;

  int file_ = -1;
  std::mutex mutex_;  // of what follows
  std::condition_variable released_;
  int holders_ = 0;
  bool taking_ = false;                          // somebody waits for the file, for all
  std::chrono::steady_clock::time_point since_;  // when the first of them came
  std::string problem_;
};

/// For a forked child: closes what it inherited of the lock, which it would hold with its parent.
void drop_lock_after_fork();

}  // namespace npublas::exec
