// # One process at a time
// The vendor's driver arbitrates jobs of several processes, but some versions of it fail or panic
// when it has to. An advisory lock on a file keeps two processes that use npublas apart.
#pragma once

#include <chrono>
#include <string>

namespace npublas::exec {

class DeviceLock {
 public:
  /// Opens (creates) the file. An empty path, or one that can't be opened, means no lock.
  explicit DeviceLock(const std::string& path);
  ~DeviceLock();
  DeviceLock(const DeviceLock&) = delete;
  DeviceLock& operator=(const DeviceLock&) = delete;

  /// Waits for the lock; false if another process held it for longer than `patience`.
  bool acquire(std::chrono::milliseconds patience);
  void release();
  /// Why there is no lock, empty if there is one or none was asked for.
  const std::string& problem() const { return problem_; }

 private:
  int file_ = -1;
  std::string problem_;
};

/// For a forked child: closes what it inherited of the lock, which it would hold with its parent.
void drop_lock_after_fork();

}  // namespace npublas::exec
