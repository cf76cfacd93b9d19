#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "npublas/device/context.hpp"

namespace npublas::device {
namespace {

std::atomic<std::uint64_t> next_id{1};

// A sync can fail and succeed when it is tried again (seen in production, where up to 50 tries were
// made 2 ms apart). Most recover at once, and each try that fails costs the caller its pause.
constexpr int kSyncTries = 10;
constexpr std::chrono::milliseconds kSyncPause{2};

std::string mebibytes(std::size_t bytes) {
  if (bytes < std::size_t(1) << 20) return std::to_string(bytes) + " bytes";
  const std::size_t tenths = (bytes * 10 + (1 << 19)) >> 20;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MiB";
}

}  // namespace

Memory::Memory(std::shared_ptr<Runtime> runtime, std::size_t bytes)
    : runtime_(std::move(runtime)), memory_(nullptr), id_(next_id++) {
  // Sizes are 32-bit in the interface; size 0 gives no buffer.
  if (bytes == 0 || bytes > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorKind::argument, "an NPU buffer of " + mebibytes(bytes) +
                                         " was asked for; 1 byte to 4 GiB - 1 can be had.");
  }
  const abi::Context owner = runtime_->allocator();
  const auto exclusive = runtime_->manage();
  memory_ = runtime_->call().create_mem(owner, std::uint32_t(bytes));
  if (memory_ == nullptr) {
    throw Error(ErrorKind::memory,
                "rknn_create_mem(" + mebibytes(bytes) +
                    ") failed: the NPU's memory, its addresses or the file descriptors (one per "
                    "buffer, see `ulimit -n`) are exhausted. Lower NPUBLAS_MEMORY_LIMIT, or close "
                    "other programs that use the NPU.");
  }
  if (memory_->virt_addr == nullptr || memory_->size < bytes) {
    const std::string got =
        mebibytes(memory_->size) + (memory_->virt_addr == nullptr ? " without an address" : "");
    runtime_->call().destroy_mem(owner, memory_);
    throw Error(ErrorKind::memory,
                "rknn_create_mem(" + mebibytes(bytes) + ") gave a buffer of " + got + ".");
  }
}

Memory::~Memory() {
  try {
    const abi::Context owner = runtime_->allocator();
    const auto exclusive = runtime_->manage();
    runtime_->call().destroy_mem(owner, memory_);
  } catch (const Error&) {  // a run hangs: better lost than waited for
  }
  memory_ = nullptr;
}

std::byte* Memory::data() const {
  return static_cast<std::byte*>(memory_->virt_addr) + memory_->offset;
}

std::size_t Memory::size() const { return memory_->size; }

void Memory::to_device(const Context* through) { sync(abi::kToDevice, through); }

void Memory::from_device(const Context* through) { sync(abi::kFromDevice, through); }

void Memory::sync(abi::MemSync direction, const Context* through) {
  abi::rknn_mem_sync_fn* const mem_sync = runtime_->call().mem_sync;
  if (mem_sync == nullptr) return;
  const abi::Context owner = through != nullptr ? through->handle() : runtime_->allocator();
  int status = mem_sync(owner, memory_, direction);
  for (int tries = 1; status != abi::kSuccess && tries < kSyncTries; ++tries) {
    std::this_thread::sleep_for(kSyncPause);
    status = mem_sync(owner, memory_, direction);
  }
  check(status, "rknn_mem_sync",
        mebibytes(size()) + (direction == abi::kToDevice ? " to the device" : " from the device"));
}

}  // namespace npublas::device
