#include "npublas/exec/device_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

namespace npublas::exec {
namespace {
constexpr std::chrono::microseconds kLongestPause{1000};
/// How long threads may pass the lock from one to the other.
constexpr std::chrono::milliseconds kTurn{100};
std::atomic<int> open_file{-1};  // of the one lock that an engine has
}  // namespace

DeviceLock::DeviceLock(const std::string& path) {
  if (path.empty()) return;
  // Readable by everybody who may use the NPU, so that users can lock each other out.
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (file_ < 0) file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  open_file = file_;
  if (file_ < 0) problem_ = "can't open " + path + ": " + std::strerror(errno);
}

DeviceLock::~DeviceLock() {
  if (file_ < 0) return;
  open_file = -1;
  ::close(file_);
}

bool DeviceLock::acquire(std::chrono::milliseconds patience) {
  if (file_ < 0) return true;
  std::unique_lock lock(mutex_);
  const auto may_join = [this] {
    return holders_ == 0 || std::chrono::steady_clock::now() - since_ < kTurn;
  };
  if (!released_.wait_for(lock, patience, may_join)) return false;
  if (holders_ == 0) {
    if (!lock_file(patience)) return false;
    since_ = std::chrono::steady_clock::now();
  }
  ++holders_;
  return true;
}

void DeviceLock::release() {
  if (file_ < 0) return;
  const std::lock_guard lock(mutex_);
  if (--holders_ > 0) return;
  ::flock(file_, LOCK_UN);
  released_.notify_all();
}

bool DeviceLock::lock_file(std::chrono::milliseconds patience) const {
  // flock can't wait with a limit, so ask again at growing intervals.
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (auto pause = std::chrono::microseconds(100);; pause = std::min(2 * pause, kLongestPause)) {
    if (::flock(file_, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno != EWOULDBLOCK && errno != EINTR) return true;  // a file system without locks
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(pause);
  }
}

void drop_lock_after_fork() {
  const int file = open_file.exchange(-1);
  if (file >= 0) ::close(file);
}

}  // namespace npublas::exec
