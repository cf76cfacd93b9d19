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
/// How long threads pass the lock from one to the other before they wait for a gap, and for how
/// long they do: other processes ask at least once in `kLongestPause`.
constexpr std::chrono::milliseconds kTurn{200}, kDrain{50};
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
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto deadline = now() + patience;
  std::unique_lock lock(mutex_);
  bool gap = false;
  if (holders_ > 0 && now() - since_ >= kTurn) {
    gap = released_.wait_for(lock, std::min(patience, kDrain), [this] { return holders_ == 0; });
    since_ = now();  // if they are still at it, they have another turn
  }
  while (holders_ == 0) {
    if (!taking_) {
      taking_ = true;
      lock.unlock();
      if (gap) std::this_thread::sleep_for(kLongestPause);  // in which others ask
      const bool taken =
          lock_file(std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()));
      lock.lock();
      taking_ = false;
      released_.notify_all();
      if (!taken) return false;
      since_ = now();
      break;
    }
    const auto done = [this] { return !taking_ || holders_ > 0; };
    if (!released_.wait_until(lock, deadline, done)) return false;
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
