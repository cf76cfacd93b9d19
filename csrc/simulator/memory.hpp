// # Memory
// A buffer is DMA memory with a descriptor: here a memfd, mapped for the CPU. What the NPU sees of
// it is the same bytes, or in strict mode a second copy that only a cache sync moves data to and
// from:
//
//   CPU writes  ->  cpu()  --to_device-->  device()  ->  a run reads
//   CPU reads   <-  cpu()  <-from_device-  device()  <-  a run writes
//
// A memory is what a program holds, the vendor's rknn_tensor_mem: a whole buffer that it owns, or a
// view of a part of one that was named by its descriptor.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "npublas/device/abi.hpp"

namespace npublas::simulator {

class Buffer {
 public:
  /// `cached` memory has a device copy of its own in strict mode. Null if there is no room.
  static std::shared_ptr<Buffer> allocate(std::uint64_t size, int domain, bool cached);
  /// Maps somebody else's descriptor; such memory has no cache syncs, and the driver keeps it in
  /// domain 0. Null if it can't be mapped.
  static std::shared_ptr<Buffer> import(int fd);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* cpu() const { return cpu_; }
  std::byte* device() const { return device_; }
  std::uint64_t size() const { return size_; }
  int fd() const { return fd_; }
  int domain() const { return domain_; }
  bool imported() const { return imported_; }
  bool coherent() const { return cpu_ == device_; }
  std::uint64_t address() const { return address_; }

  // Both clip the range to the buffer.
  void to_device(std::uint64_t offset, std::uint64_t size) const;
  void from_device(std::uint64_t offset, std::uint64_t size) const;
  /// True if CPU and NPU see different bytes there.
  bool differs(std::uint64_t offset, std::uint64_t size) const;

  /// The descriptor stays open, and counted, when the buffer goes.
  void leak_fd() { leak_fd_ = true; }
  bool leaks_fd() const { return leak_fd_; }

 private:
  Buffer() = default;
  std::byte* cpu_ = nullptr;
  std::byte* device_ = nullptr;
  std::uint64_t size_ = 0;
  std::uint64_t mapped_ = 0;  // in whole pages
  std::uint64_t address_ = 0;
  int fd_ = -1;
  int domain_ = 0;
  bool imported_ = false;
  bool leak_fd_ = false;
};

struct Memory {
  abi::TensorMem handle{};        // what the program sees, and may write to
  std::shared_ptr<Buffer> owned;  // this memory's own buffer; empty in a view
  std::weak_ptr<Buffer> viewed;   // the buffer that a view looks into
  bool import_pending = false;    // a foreign descriptor is mapped when it is bound

  std::shared_ptr<Buffer> buffer() const { return owned ? owned : viewed.lock(); }
};

/// Makes a memory and keeps it in the table of live ones; null if there is no room.
std::shared_ptr<Memory> create_memory(std::uint64_t size, int domain, bool cached);
/// A view of the live buffer with this descriptor, or else a foreign one to be imported later.
std::shared_ptr<Memory> view_memory(int fd, void* address, std::uint32_t size, std::int32_t offset);
/// The live memory with this handle, or null.
std::shared_ptr<Memory> find_memory(const abi::TensorMem* handle);
/// Takes it out of the table; null if it isn't there.
std::shared_ptr<Memory> forget_memory(const abi::TensorMem* handle);

/// A leaked descriptor is really left open until this closes it.
void close_leaked_fds();

}  // namespace npublas::simulator
