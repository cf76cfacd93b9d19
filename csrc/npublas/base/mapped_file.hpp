// # Mapped files
// A part of a file, read through a mapping. Whoever reads a page that the file no longer has is
// killed (SIGBUS), so ask for `stamp` before each reading: it throws where the file became shorter,
// and changes where the file was written to. Between the question and the reading nothing protects,
// and nothing can: a program that shortens a file within those microseconds is not defended
// against.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace npublas {

class MappedFile {
 public:
  /// Maps `size` bytes from `offset` of an open file, of which it keeps a descriptor of its own.
  /// Throws Error(file).
  MappedFile(int descriptor, std::uint64_t offset, std::size_t size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(mapping_) + skipped_, size_};
  }
  /// A number, never 0, made of the file's size and times. Throws Error(file) if it is too short.
  std::uint64_t stamp() const;

 private:
  int descriptor_;
  std::uint64_t end_;
  std::size_t skipped_ = 0;  ///< from the beginning of a page, where mappings begin, to `offset`
  std::size_t size_;
  void* mapping_ = nullptr;  ///< of skipped_ + size_ bytes
};

}  // namespace npublas
