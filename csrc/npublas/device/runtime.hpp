// # The runtime
// A loaded librknnrt.so (or a library with its interface): its functions, its version, and what
// follows from the version. Everything that the core knows about a runtime is asked here.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "npublas/base/error.hpp"
#include "npublas/device/abi.hpp"

namespace npublas::device {

/// "2.3.2", "2.0.0b0", "2.4.2a2": parsed leniently; missing parts are 0.
struct Version {
  int major = 0;
  int minor = 0;
  int patch = 0;
  auto operator<=>(const Version&) const = default;
};
// What npublas asks for; below `oldest` only under NPUBLAS_UNSUPPORTED_RUNTIME=1.
inline constexpr Version kOldestRuntime{1, 6, 0};
inline constexpr Version kRecommendedRuntime{2, 3, 2};
inline constexpr Version kOldestDriver{0, 9, 6};
inline constexpr Version kRecommendedDriver{0, 9, 8};
/// All zero if `text` holds no version.
Version parse_version(const std::string& text);
std::string to_string(const Version& version);
/// What a library file says of itself, without loading it: the text after "librknnrt version: ",
/// e.g. "2.3.2 (429f97ae6b@2025-04-09T09:09:27)"; empty if it says nothing or cannot be read.
std::string version_text_in(const std::string& path);

/// The table of limits of a chip; only RK3588 is filled.
struct Chip {
  std::string name;      ///< "RK3588"
  int cores;             ///< NPU cores, each with a mask of its own: 1, 2, 4
  int depth_step;        ///< K must be a multiple of this, every type
  int column_step_int8;  ///< N must be a multiple of this
  int column_step_float16;
  int column_step_int4;  ///< 0: it has no product of int4
  int max_rows;          ///< M per context
  int max_columns;       ///< N per context
};
/// The chip that a device tree's `compatible` names (strings separated by NUL), nullptr if unknown.
const Chip* chip_from_device_tree(const std::string& compatible);
/// The Rockchip SoC that it names, e.g. "rk3576"; empty if it names none.
std::string soc_from_device_tree(const std::string& compatible);
const Chip& rk3588();

/// The symbols of the library, null where it has none.
struct Functions {
  abi::rknn_matmul_create_fn* matmul_create = nullptr;
  abi::rknn_matmul_set_io_mem_fn* matmul_set_io_mem = nullptr;
  abi::rknn_matmul_set_core_mask_fn* matmul_set_core_mask = nullptr;
  abi::rknn_matmul_run_fn* matmul_run = nullptr;
  abi::rknn_matmul_destroy_fn* matmul_destroy = nullptr;
  abi::rknn_create_mem_fn* create_mem = nullptr;
  abi::rknn_destroy_mem_fn* destroy_mem = nullptr;
  abi::rknn_mem_sync_fn* mem_sync = nullptr;  // from 1.6.0
  abi::rknn_query_fn* query = nullptr;
};

/// What the version (and the driver, once known) means for the core.
struct Quirks {
  int max_depth_int8 = 0;  ///< K that create accepts
  int max_depth_float16 = 0;
  int max_depth_int4 = 0;           ///< 0: it has no such product
  bool serialise_with_run = false;  ///< driver before 0.9.8: no create/alloc/bind while a run is on
  bool unsupported = false;  ///< older than 1.6.0, loaded under NPUBLAS_UNSUPPORTED_RUNTIME=1
  bool untested = false;     ///< runtime or driver newer than what is known, or of no known version
  std::string known_bad;     ///< why this version must not be used; empty if it may
};
/// What a runtime's version means; `unsupported` is set for versions before 1.6.0.
Quirks quirks_of(const Version& version);

/// Where `load` looks. The defaults are the machine; tests look elsewhere.
struct Surroundings {
  std::vector<std::string> candidates;  ///< the usual places of librknnrt.so, in order
  std::string device_tree = "/proc/device-tree/compatible";
  Surroundings();
};

class Runtime {
 public:
  /// `which` is "auto" (NPUBLAS_RUNTIME, then the usual places; a library that calls itself a
  /// simulator is refused wherever it is found), "simulator" (the one beside libnpublas.so) or a
  /// path. Throws Error(unavailable) that names the one cause and its cure. Talks to no device.
  static std::shared_ptr<Runtime> load(const std::string& which, const Surroundings& around = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const std::string& path() const { return path_; }
  /// As the library says it, e.g. "2.3.2 (429f97ae6b@2025-04-09T09:09:27)".
  const std::string& version_text() const { return version_text_; }
  const Version& version() const { return version_; }
  /// From rknn_query on a live context; empty until `learn_driver` was called.
  const std::string& driver_text() const { return driver_text_; }
  const Quirks& quirks() const { return quirks_; }
  const Chip& chip() const { return *chip_; }
  /// True if the version string says so. Only reports read this; the core never does.
  bool is_simulated() const;
  /// SHA-256 of the library file, in hex; with the driver's version the key of cached verdicts.
  std::string fingerprint() const;
  const Functions& call() const { return functions_; }

  /// The context that every Memory is allocated through: the smallest there is, made on first use
  /// and destroyed with the runtime, so that a memory never outlives the context it belongs to
  /// (freeing one through a destroyed context is a SIGSEGV). Throws Error if it can't be made: this
  /// is the first call that needs a device.
  abi::Context allocator();

  /// Asks a live context for the versions of library and driver, and sharpens the quirks. Throws
  /// Error(unavailable) for a driver that is too old. Once per runtime, before other threads use
  /// it.
  void learn_driver();

  /// Held exclusively around create, destroy, alloc, free and bind (nobody documents them as
  /// thread-safe); held shared around run where `quirks().serialise_with_run`.
  /// One for the process: a runtime that was given up may still be loaded beside the next.
  static std::shared_mutex& management();
  /// `management`, held exclusively. Throws Error(timeout) where a run holds it for too long.
  std::unique_lock<std::shared_mutex> manage() const;

  /// Destroys the context that memories come from, so that the next memory makes a new one: after a
  /// failure the old one may be dead. No memory may be left.
  void renew_allocator();

 private:
  Runtime() = default;
  void open(const std::string& file);
  void judge() const;

  std::string path_, version_text_, driver_text_;
  Version version_;
  Quirks quirks_;
  const Chip* chip_ = nullptr;
  Functions functions_;
  std::mutex allocator_mutex_;
  abi::Context allocator_ = 0;
  bool automatic_ = false;          // found under "auto": may not be a simulator
  bool allow_unsupported_ = false;  // NPUBLAS_UNSUPPORTED_RUNTIME=1
};

/// The places that "auto" looks at, in order.
std::vector<std::string> candidate_paths();
/// The simulator beside libnpublas.so.
std::string simulator_path();
/// True if a version text says that its library is a simulator.
bool says_simulator(const std::string& version_text);

/// Turns a negative status of `call` into an Error that names the call, what it was for, and the
/// remedy; does nothing on success. The one place that knows what the status codes mean.
void check(int status, const char* call, const std::string& what);
/// The same text without the throw.
std::string describe(int status, const char* call, const std::string& what);
/// The kind of error that a negative status is.
ErrorKind kind_of(int status);
/// What a run's status means after so long: the driver gives a job up after 6 s, and the runtime
/// reports that as a failure like any other.
int status_of_run(int status, std::chrono::steady_clock::duration took);

}  // namespace npublas::device
