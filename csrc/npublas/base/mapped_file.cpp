#include "npublas/base/mapped_file.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "npublas/base/error.hpp"

namespace npublas {
namespace {

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorKind::file, std::string(what) + " failed: " + std::strerror(errno));
}

struct stat state_of(int descriptor) {
  struct stat state;
  if (fstat(descriptor, &state) != 0) fail("asking for a file's size");
  return state;
}

}  // namespace

File::~File() { close(descriptor_); }

bool File::is_regular() const { return S_ISREG(state_of(descriptor_).st_mode); }

std::uint64_t File::size() const { return std::uint64_t(state_of(descriptor_).st_size); }

void File::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = pread(descriptor_, to.data(), to.size(), off_t(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("reading a file");
    if (got == 0) throw Error(ErrorKind::file, "the file was cut");
    offset += std::uint64_t(got);
    to = to.subspan(std::size_t(got));
  }
}

std::uint64_t File::stamp(std::uint64_t least, Clock::time_point now) const {
  const struct stat state = state_of(descriptor_);
  if (std::uint64_t(state.st_size) < least) {
    throw Error(ErrorKind::file, "the file was cut to " + std::to_string(state.st_size) +
                                     " of at least " + std::to_string(least) + " bytes");
  }
  // The time of the last change is the kernel's; those of reading and writing anybody can set.
  const std::chrono::nanoseconds changed =
      std::chrono::seconds(state.st_ctim.tv_sec) + std::chrono::nanoseconds(state.st_ctim.tv_nsec);
  static std::atomic<std::uint64_t> asked{0};
  // FAT's step is the longest. A change in the future is one that a clock was set back after.
  const bool recent = now.time_since_epoch() - changed < std::chrono::seconds(2);
  std::uint64_t stamp = 0;
  for (const auto part : {std::uint64_t(state.st_size), std::uint64_t(changed.count()),
                          recent ? ++asked : std::uint64_t(0)}) {
    // 2^64 over the golden ratio, as hashes do.
    stamp = (stamp ^ part) * 0x9e3779b97f4a7c15u;
    stamp ^= stamp >> 32;
  }
  return stamp | 1;
}

MappedFile::MappedFile(std::shared_ptr<const File> file, std::uint64_t offset, std::size_t size)
    : file_(std::move(file)), end_(offset + size), size_(size) {
  stamp();
  if (size_ == 0) return;                                                 // which mmap refuses
  skipped_ = std::size_t(offset % std::uint64_t(sysconf(_SC_PAGESIZE)));  // 64 KiB on some
  void* const mapping = mmap(nullptr, skipped_ + size, PROT_READ, MAP_SHARED, file_->descriptor(),
                             off_t(offset - skipped_));
  if (mapping == MAP_FAILED) fail("mapping a file");
  mapping_ = mapping;
}

MappedFile::~MappedFile() {
  if (mapping_) munmap(mapping_, skipped_ + size_);
}

}  // namespace npublas
