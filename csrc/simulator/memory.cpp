#include "memory.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "accounting.hpp"
#include "faults.hpp"
#include "lock.hpp"
#include "report.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

constexpr std::uint64_t kPage = 4096;
// What the NPU finds in memory that was never synced: not zeros, which would hide a missing sync of
// a padding, and not NaN (90 as int8, 203.25 as fp16).
constexpr int kPoison = 0x5a;

std::uint64_t whole_pages(std::uint64_t size) { return (size + kPage - 1) / kPage * kPage; }

// Bus addresses are made up; they only have to differ.
std::uint64_t next_address(std::uint64_t bytes) {
  static std::atomic<std::uint64_t> next{0x1000'0000};
  return next.fetch_add(bytes);
}

std::byte* map(int fd, std::uint64_t bytes) {
  void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
  return address == MAP_FAILED ? nullptr : static_cast<std::byte*>(address);
}

ino_t inode_of(int fd) {
  struct stat status{};
  return fd >= 0 && fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Live memories by handle, live buffers by inode (a program may dup a descriptor). Never destroyed:
// a program may free its memory while the process ends.
struct Table {
  Lock mutex;
  std::unordered_map<const abi::TensorMem*, std::shared_ptr<Memory>> memories;
  std::unordered_map<ino_t, std::weak_ptr<Buffer>> buffers;
  std::vector<int> leaked;
};
Table& table() {
  static Table& value = *new Table;
  return value;
}

}  // namespace

std::shared_ptr<Buffer> Buffer::allocate(std::uint64_t size, int domain, bool cached) {
  if (strikes(Fault::enomem)) {
    log("failed to allocate %llu bytes, errno 12", (unsigned long long)size);
    return nullptr;
  }
  const std::uint64_t mapped = whole_pages(size);
  if (!take_buffer(std::int64_t(mapped), domain, true)) return nullptr;
  // From here the destructor gives everything back.
  const std::shared_ptr<Buffer> buffer(new Buffer);
  buffer->size_ = size;
  buffer->mapped_ = mapped;
  buffer->domain_ = domain;
  buffer->address_ = next_address(mapped);
  buffer->fd_ = memfd_create("npublas-simulator", MFD_CLOEXEC);
  if (buffer->fd_ >= 0 && ftruncate(buffer->fd_, off_t(mapped)) == 0) {
    buffer->cpu_ = map(buffer->fd_, mapped);
  }
  buffer->device_ = buffer->cpu_;
  if (buffer->cpu_ && cached && get(Setting::strict)) {
    buffer->device_ = map(-1, mapped);
    if (buffer->device_) std::memset(buffer->device_, kPoison, mapped);
  }
  if (!buffer->cpu_ || !buffer->device_) {
    log("failed to allocate %llu bytes: %s", (unsigned long long)size, std::strerror(errno));
    return nullptr;
  }
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.buffers[inode_of(buffer->fd_)] = buffer;
  return buffer;
}

std::shared_ptr<Buffer> Buffer::import(int fd) {
  struct stat status{};
  if (fd < 0 || fstat(fd, &status) != 0 || status.st_size <= 0) {
    log("failed to convert fd %d to handle, errno %d", fd, fd < 0 ? EBADF : errno);
    return nullptr;
  }
  const std::uint64_t mapped = whole_pages(std::uint64_t(status.st_size));
  if (!take_buffer(std::int64_t(mapped), 0, false)) return nullptr;
  const std::shared_ptr<Buffer> buffer(new Buffer);
  buffer->imported_ = true;
  buffer->size_ = std::uint64_t(status.st_size);
  buffer->mapped_ = mapped;
  buffer->address_ = next_address(mapped);
  buffer->cpu_ = buffer->device_ = map(fd, mapped);
  if (!buffer->cpu_) {
    log("failed to convert fd %d to handle, errno %d", fd, errno);
    return nullptr;
  }
  return buffer;
}

Buffer::~Buffer() {
  if (!coherent() && device_) munmap(device_, mapped_);
  if (cpu_) munmap(cpu_, mapped_);
  if (!imported_) {
    Table& t = table();
    const std::lock_guard lock(t.mutex);
    if (const auto found = t.buffers.find(inode_of(fd_));
        found != t.buffers.end() && found->second.expired()) {
      t.buffers.erase(found);
    }
    if (leak_fd_ && fd_ >= 0) t.leaked.push_back(fd_);
  }
  if (fd_ >= 0 && !leak_fd_) close(fd_);
  give_buffer(std::int64_t(mapped_), domain_, !imported_);
  if (leak_fd_) {
    add(Counter::fds);
    add(Counter::leaked_fds);
  }
}

void Buffer::to_device(std::uint64_t offset, std::uint64_t size) const {
  if (coherent() || offset >= size_) return;
  std::memcpy(device_ + offset, cpu_ + offset, std::min(size, size_ - offset));
}

void Buffer::from_device(std::uint64_t offset, std::uint64_t size) const {
  if (coherent() || offset >= size_) return;
  std::memcpy(cpu_ + offset, device_ + offset, std::min(size, size_ - offset));
}

bool Buffer::differs(std::uint64_t offset, std::uint64_t size) const {
  if (coherent() || offset >= size_) return false;
  return std::memcmp(cpu_ + offset, device_ + offset, std::min(size, size_ - offset)) != 0;
}

std::shared_ptr<Memory> create_memory(std::uint64_t size, int domain, bool cached) {
  std::shared_ptr<Buffer> buffer = Buffer::allocate(size, domain, cached);
  if (!buffer) return nullptr;
  const auto memory = std::make_shared<Memory>();
  memory->handle.virt_addr = buffer->cpu();
  memory->handle.phys_addr = buffer->address();
  memory->handle.fd = buffer->fd();
  memory->handle.size = std::uint32_t(size);
  memory->handle.flags = abi::kAllocInside;
  memory->handle.priv_data = buffer->cpu();
  memory->owned = std::move(buffer);
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.memories[&memory->handle] = memory;
  return memory;
}

std::shared_ptr<Memory> view_memory(int fd, void* address, std::uint32_t size,
                                    std::int32_t offset) {
  const auto memory = std::make_shared<Memory>();
  memory->handle.virt_addr = address;
  memory->handle.phys_addr = ~std::uint64_t{0};
  memory->handle.fd = fd;
  memory->handle.offset = offset;
  memory->handle.size = size;
  memory->handle.flags = abi::kAllocInside;
  const ino_t inode = inode_of(fd);
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  if (const auto found = t.buffers.find(inode); inode && found != t.buffers.end()) {
    memory->viewed = found->second;
  } else {
    memory->import_pending = true;
  }
  t.memories[&memory->handle] = memory;
  return memory;
}

std::shared_ptr<Memory> find_memory(const abi::TensorMem* handle) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const auto found = t.memories.find(handle);
  return found == t.memories.end() ? nullptr : found->second;
}

std::shared_ptr<Memory> forget_memory(const abi::TensorMem* handle) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const auto found = t.memories.find(handle);
  if (found == t.memories.end()) return nullptr;
  std::shared_ptr<Memory> memory = std::move(found->second);
  t.memories.erase(found);
  return memory;
}

void close_leaked_fds() {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  for (const int fd : t.leaked) close(fd);
  add(Counter::fds, -std::int64_t(t.leaked.size()));
  add(Counter::leaked_fds, -std::int64_t(t.leaked.size()));
  t.leaked.clear();
}

}  // namespace npublas::simulator
