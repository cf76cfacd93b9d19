#include "npublas/base/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "npublas/base/error.hpp"

namespace npublas {
namespace {

[[noreturn]] void fail(const char* what) {
  throw Error(ErrorKind::file, std::string(what) + " failed: " + std::strerror(errno));
}

}  // namespace

MappedFile::MappedFile(int descriptor, std::uint64_t offset, std::size_t size)
    : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)), end_(offset + size), size_(size) {
  if (descriptor_ < 0) fail("duplicating a file descriptor");
  try {
    stamp();
    if (size_ == 0) return;                                                 // which mmap refuses
    skipped_ = std::size_t(offset % std::uint64_t(sysconf(_SC_PAGESIZE)));  // 64 KiB on some
    void* const mapping = mmap(nullptr, skipped_ + size, PROT_READ, MAP_SHARED, descriptor_,
                               off_t(offset - skipped_));
    if (mapping == MAP_FAILED) fail("mapping a file of weights");
    mapping_ = mapping;
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

MappedFile::~MappedFile() {
  if (mapping_) munmap(mapping_, skipped_ + size_);
  close(descriptor_);
}

std::uint64_t MappedFile::stamp() const {
  struct stat found;
  if (fstat(descriptor_, &found) != 0) fail("asking for a file's size");
  if (std::uint64_t(found.st_size) < end_) {
    throw Error(ErrorKind::file, "the file was cut to " + std::to_string(found.st_size) +
                                     " of at least " + std::to_string(end_) +
                                     " bytes after it was loaded");
  }
  std::uint64_t stamp = 0;
  for (const std::uint64_t part :
       {std::uint64_t(found.st_size), std::uint64_t(found.st_mtim.tv_sec),
        std::uint64_t(found.st_mtim.tv_nsec), std::uint64_t(found.st_ctim.tv_sec),
        std::uint64_t(found.st_ctim.tv_nsec)}) {
    stamp = (stamp ^ part) * 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio, as hashes do
    stamp ^= stamp >> 32;
  }
  return stamp | 1;
}

}  // namespace npublas
