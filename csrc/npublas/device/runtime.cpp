// # A runtime at work
// The first call that needs a device is the creation of the allocator; everything that depends on
// the driver is learnt through it.
#include "npublas/device/runtime.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <span>
#include <thread>
#include <utility>

#include "npublas/base/sha256.hpp"
#include "npublas/device/own_thread.hpp"

namespace npublas::device {
namespace {

// The smallest context that every chip and every version takes.
constexpr int kSmall = 32;

// Up to 255 characters that may lack the terminating NUL.
std::string text_in(const char (&field)[256]) {
  return {field, std::find(field, field + sizeof field, '\0')};
}

// Outlives every thread, and may be held by one that a forked child doesn't have.
std::shared_mutex* managing = new std::shared_mutex;
const int at_fork = ::pthread_atfork(nullptr, nullptr, [] { managing = new std::shared_mutex; });

// The driver gives a run up after 6 s, up to three times.
constexpr std::chrono::seconds kManagingPatience{20};

}  // namespace

Runtime::~Runtime() { renew_allocator(); }

std::shared_mutex& Runtime::management() { return *managing; }

std::unique_lock<std::shared_mutex> Runtime::manage() const {
  std::unique_lock lock(management(), std::defer_lock);
  if (!quirks_.serialise_with_run) {
    lock.lock();
    return lock;
  }
  // Runs hold it too, and one that hangs holds it for ever.
  const auto deadline = std::chrono::steady_clock::now() + kManagingPatience;
  while (!lock.try_lock()) {
    if (std::chrono::steady_clock::now() >= deadline)
      throw Error(ErrorKind::timeout,
                  "a run of the NPU holds up everything else; drivers from 0.9.8 on don't need to "
                  "wait for it");
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return lock;
}

void Runtime::renew_allocator() {
  const std::lock_guard once(allocator_mutex_);
  if (allocator_ == 0) return;
  const auto exclusive = manage();
  functions_.matmul_destroy(std::exchange(allocator_, 0));
}

abi::Context Runtime::allocator() {
  const std::lock_guard once(allocator_mutex_);
  if (allocator_ != 0) return allocator_;
  abi::Context context = 0;
  run_on_own_thread([&] {
    abi::MatmulInfo info{};
    abi::IoAttr io{};
    info.m = info.k = info.n = kSmall;
    info.type = abi::kInt8Int8ToInt32;
    info.b_layout = abi::kNative;
    info.ac_layout = abi::kNative;
    const auto exclusive = manage();
    const int status = functions_.matmul_create(&context, &info, &io);
    if (status != abi::kSuccess || context == 0) {
      throw Error(ErrorKind::unavailable,
                  "the NPU could not be opened: rknn_matmul_create(int8 32x32x32) by " + path_ +
                      " (" + version_text_ + ") returned " + std::to_string(status) +
                      ". Driver, device node or permission: `npublas info` names the cause.");
    }
  });
  allocator_ = context;
  return allocator_;
}

void Runtime::learn_driver() {
  const abi::Context context = allocator();
  abi::SdkVersion versions{};
  int status = abi::kFail;
  if (functions_.query != nullptr) {
    const auto exclusive = manage();
    status = functions_.query(context, abi::kQuerySdkVersion, &versions, sizeof versions);
  }
  if (status == abi::kSuccess) {
    // The library's own answer beats what was read in the file.
    const std::string text = text_in(versions.api_version);
    if (const Version version = parse_version(text); version != Version{}) {
      if (version != version_) {
        const Quirks read = quirks_;
        quirks_ = quirks_of(version);
        quirks_.untested = quirks_.untested || read.untested;
        version_ = version;
      }
      // Keep the file's text where it says more (that it is a simulator, for one).
      if (parse_version(version_text_) != version) version_text_ = text;
    }
    driver_text_ = text_in(versions.drv_version);
  }
  judge();

  const Version driver = parse_version(driver_text_);
  // 0.9.8 cured failures of several processes and domains; before it, allocating while another
  // thread ran ended in submit failures and kernel panics. Unknown counts as old here.
  quirks_.serialise_with_run = driver < kRecommendedDriver;
  if (driver == Version{} || driver > kRecommendedDriver) quirks_.untested = true;
  if (driver != Version{} && driver < kOldestDriver) {
    if (!allow_unsupported_) {
      throw Error(ErrorKind::unavailable,
                  "the NPU driver rknpu " + driver_text_ +
                      " is too old: npublas needs 0.9.6, and 0.9.8 is recommended. It is part of "
                      "the kernel: install a newer kernel or image of your board's vendor. "
                      "NPUBLAS_UNSUPPORTED_RUNTIME=1 tries it all the same.");
    }
    quirks_.unsupported = true;
  }
}

std::string Runtime::fingerprint() const {
  std::ifstream file(path_, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file || bytes.empty()) {
    throw Error(ErrorKind::unavailable,
                "the runtime's file " + path_ + " cannot be read any more.");
  }
  return sha256(std::as_bytes(std::span(bytes)));
}

}  // namespace npublas::device
