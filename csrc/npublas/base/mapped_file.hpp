// # Mapped files
// A file that is read through a mapping. Whoever reads a page that the file no longer has is killed
// (SIGBUS), so ask for `stamp` before each reading: it throws where the file became shorter, and
// changes where the file was written to. Between the question and the reading nothing protects, and
// nothing can: a program that shortens a file within those microseconds isn't defended against, and
// neither is one that writes through a mapping of its own, which the file's times tell late.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace npublas {

/// An open file. What it throws is Error(file).
class File {
 public:
  using Clock = std::chrono::system_clock;

  /// Owns the descriptor from now on.
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }
  bool is_regular() const;
  std::uint64_t size() const;
  /// Fills `to` from `offset` on, without a mapping. Throws if the file ends before.
  void read(std::uint64_t offset, std::span<std::byte> to) const;
  /// A number, never 0, for the file as it is: of its size and the time of its last change, and
  /// never the same again for two seconds after one, since file systems tell the time in steps.
  /// Throws if it has less than `least` bytes.
  std::uint64_t stamp(std::uint64_t least, Clock::time_point now) const;

 private:
  int descriptor_;
};

class MappedFile {
 public:
  /// Maps `size` bytes of the file from `offset`. Throws Error(file).
  MappedFile(std::shared_ptr<const File> file, std::uint64_t offset, std::size_t size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(mapping_) + skipped_, size_};
  }
  /// The file's, which must still have these bytes.
  std::uint64_t stamp(File::Clock::time_point now = File::Clock::now()) const {
    return file_->stamp(end_, now);
  }

 private:
  std::shared_ptr<const File> file_;
  std::uint64_t end_;
  std::size_t skipped_ = 0;  ///< from the beginning of a page, where mappings begin, to `offset`
  std::size_t size_;
  void* mapping_ = nullptr;  ///< of skipped_ + size_ bytes
};

}  // namespace npublas
