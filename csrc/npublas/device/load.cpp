// # Finding and loading a runtime
//   for each place:  dlopen, look up the functions, read the version, judge it
//   the first that may be used is taken; else the first one found says why not
// A library is judged by the file that was really loaded, not by the name that it was asked for.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>

#include "npublas/base/environment.hpp"
#include "npublas/device/runtime.hpp"

namespace npublas::device {
namespace {

constexpr const char* kUpgrade =
    "Install version 2.3.2 from Rockchip's rknn-toolkit2 (rknpu2/runtime/Linux/librknn_api/aarch64/"
    "librknnrt.so, to /usr/lib).";

[[noreturn]] void unavailable(const std::string& message) {
  throw Error(ErrorKind::unavailable, message);
}

std::string real_path(const std::string& path) {
  char* const resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;
  const std::string result = resolved;
  std::free(resolved);
  return result;
}

// The file that holds an address of the process.
std::string file_of(const void* address) {
  Dl_info info{};
  return ::dladdr(address, &info) != 0 && info.dli_fname != nullptr ? real_path(info.dli_fname)
                                                                    : "";
}

std::optional<std::string> read_device_tree(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

template <typename Function>
void look_up(void* handle, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(handle, name));
}

// What the exported symbols say about the version; the file's own words are asked first.
Version oldest_with_symbols(void* handle) {
  const auto has = [&](const char* name) { return ::dlsym(handle, name) != nullptr; };
  if (has("rknn_matmul_create_dynamic_shape")) return {2, 1, 0};
  if (has("rknn_create_mem2") || has("rknn_matmul_set_quant_params")) return {2, 0, 0};
  if (has("rknn_mem_sync")) return {1, 6, 0};
  return {1, 5, 2};
}

// Which chip's limits hold, or the reason why none does.
const Chip& chip_for(const Runtime& runtime, bool chosen, const std::string& device_tree) {
  const std::optional<std::string> compatible = read_device_tree(device_tree);
  if (compatible) {
    if (const Chip* chip = chip_from_device_tree(*compatible)) return *chip;
  }
  if (runtime.is_simulated() || (chosen && !compatible)) return rk3588();
  if (!compatible) {
    unavailable(
        "this is no Rockchip board, or a container that hides its device tree (" + device_tree +
        " cannot be read). In a container pass -v "
        "/proc/device-tree/compatible:/proc/device-tree/compatible; without a board, choose "
        "runtime=\"simulator\".");
  }
  const std::string soc = soc_from_device_tree(*compatible);
  unavailable(
      (soc.empty() ? "this is no Rockchip board" : "the chip " + soc + " is not supported") +
      " (by " + device_tree +
      "): npublas knows the NPU of the RK3588. Choose runtime=\"simulator\" to try it here.");
}

}  // namespace

std::vector<std::string> candidate_paths() {
  return {
      "/usr/lib/librknnrt.so",                    // where the vendor puts it
      "/usr/lib/aarch64-linux-gnu/librknnrt.so",  // where distributions put it
      "/usr/local/lib/librknnrt.so",
      "/lib/librknnrt.so",
      "librknnrt.so",                // where the loader looks: LD_LIBRARY_PATH, ld.so.conf
      "/vendor/lib64/librknnrt.so",  // Android
  };
}

std::string simulator_path() {
  static const int here = 0;
  const std::string library = file_of(&here);
  return library.substr(0, library.rfind('/') + 1) + "libnpublas_simulator.so";
}

bool says_simulator(const std::string& version_text) {
  std::string text = version_text;
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return char(std::tolower(c)); });
  return text.find("simulator") != text.npos;
}

Surroundings::Surroundings() : candidates(candidate_paths()) {}

std::shared_ptr<Runtime> Runtime::load(const std::string& which, const Surroundings& around) {
  const auto attempt = [&](const std::string& file, bool automatic, bool chosen) {
    const std::shared_ptr<Runtime> runtime(new Runtime());
    runtime->automatic_ = automatic;
    runtime->allow_unsupported_ = environment_flag("NPUBLAS_UNSUPPORTED_RUNTIME");
    runtime->open(file);
    runtime->judge();
    runtime->chip_ = &chip_for(*runtime, chosen, around.device_tree);
    return runtime;
  };

  if (which == "simulator") return attempt(simulator_path(), false, true);
  if (which != "auto") {
    if (which.find('/') == which.npos && which.find(".so") == which.npos) {
      throw Error(ErrorKind::argument, "runtime=\"" + which +
                                           "\" is neither \"auto\" nor \"simulator\" nor a path "
                                           "(e.g. \"/usr/lib/librknnrt.so\").");
    }
    return attempt(which, false, true);
  }

  // As a setting the variable may also say "auto" or "simulator"; whoever asks for "auto" after
  // that has overruled it.
  if (const std::string file = environment("NPUBLAS_RUNTIME");
      !file.empty() && file != "auto" && file != "simulator") {
    if (file.find('/') == file.npos && file.find(".so") == file.npos) {
      throw Error(ErrorKind::argument, "NPUBLAS_RUNTIME=" + file +
                                           " is neither \"auto\" nor \"simulator\" nor a path "
                                           "(e.g. \"/usr/lib/librknnrt.so\").");
    }
    return attempt(file, true, true);
  }

  std::optional<Error> first;
  for (const std::string& file : around.candidates) {
    if (file.find('/') != file.npos && ::access(file.c_str(), F_OK) != 0) continue;
    try {
      return attempt(file, true, false);
    } catch (const Error& error) {
      // A bare name that the loader doesn't find is no library that was found and is bad.
      if (!first && file.find('/') != file.npos) first = error;
      if (error.kind() == ErrorKind::argument) throw;
    }
  }
  if (first) throw *first;
  chip_for(*std::shared_ptr<Runtime>(new Runtime()), false, around.device_tree);
  std::string places;
  for (const std::string& file : around.candidates) places += (places.empty() ? "" : ", ") + file;
  unavailable("no librknnrt.so was found (" + places + "). " + kUpgrade +
              " Or name it: NPUBLAS_RUNTIME=/path/to/librknnrt.so.");
}

// Loads `file` and finds out what it is. Its handle is never closed once it is in use: the vendor's
// library starts threads of its own, and code under a thread's feet must not go away.
void Runtime::open(const std::string& file) {
  if (file.find('/') != file.npos && ::access(file.c_str(), F_OK) != 0) {
    unavailable("the runtime " + file + " does not exist.");
  }
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = ::dlerror();
    unavailable("the runtime could not be loaded: " + std::string(reason ? reason : file) +
                ". It must be a librknnrt.so for this machine's architecture.");
  }
  look_up(handle, "rknn_matmul_create", functions_.matmul_create);
  look_up(handle, "rknn_matmul_set_io_mem", functions_.matmul_set_io_mem);
  look_up(handle, "rknn_matmul_set_core_mask", functions_.matmul_set_core_mask);
  look_up(handle, "rknn_matmul_run", functions_.matmul_run);
  look_up(handle, "rknn_matmul_destroy", functions_.matmul_destroy);
  look_up(handle, "rknn_create_mem", functions_.create_mem);
  look_up(handle, "rknn_destroy_mem", functions_.destroy_mem);
  look_up(handle, "rknn_mem_sync", functions_.mem_sync);
  look_up(handle, "rknn_query", functions_.query);

  std::string missing;
  const auto require = [&](const char* name, const void* function) {
    if (function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
  };
  require("rknn_matmul_create", reinterpret_cast<const void*>(functions_.matmul_create));
  require("rknn_matmul_set_io_mem", reinterpret_cast<const void*>(functions_.matmul_set_io_mem));
  require("rknn_matmul_run", reinterpret_cast<const void*>(functions_.matmul_run));
  require("rknn_matmul_destroy", reinterpret_cast<const void*>(functions_.matmul_destroy));
  require("rknn_create_mem", reinterpret_cast<const void*>(functions_.create_mem));
  require("rknn_destroy_mem", reinterpret_cast<const void*>(functions_.destroy_mem));
  if (!missing.empty()) {
    ::dlclose(handle);
    unavailable(file + " has no " + missing + ": it is no librknnrt.so with a matrix product. " +
                kUpgrade);
  }

  path_ = file_of(reinterpret_cast<const void*>(functions_.matmul_create));
  version_text_ = version_text_in(path_);
  const Version by_symbols = oldest_with_symbols(handle);
  if (version_text_.empty()) {
    version_text_ = "at least " + to_string(by_symbols) + ", by its symbols";
    version_ = by_symbols;
    quirks_ = quirks_of(by_symbols);
    quirks_.untested = true;
    // At least: a newer one takes no deeper products than this.
    quirks_.max_depth_int8 = std::min(quirks_.max_depth_int8, 8192);
    quirks_.max_depth_float16 = std::min(quirks_.max_depth_float16, 8192);
  } else {
    version_ = parse_version(version_text_);
    quirks_ = quirks_of(version_);
    // Words and symbols that disagree: what is exported counts, and caution.
    const bool modern = version_ >= Version{1, 6, 0};
    if (modern != (by_symbols >= Version{1, 6, 0}) || by_symbols > version_) {
      quirks_.untested = true;
    }
  }
}

// Throws if this version must not be used.
void Runtime::judge() const {
  const std::string name = path_ + " (" + version_text_ + ")";
  if (automatic_ && is_simulated()) {
    unavailable(name +
                " is a simulator, and runtime=\"auto\" takes none, wherever it is. Choose "
                "it with runtime=\"simulator\".");
  }
  if (!quirks_.known_bad.empty()) {
    unavailable(name + " is known bad: " + quirks_.known_bad + ". " + kUpgrade);
  }
  if (quirks_.unsupported && !allow_unsupported_) {
    unavailable(name + " is too old: npublas needs 1.6.0 or newer. " + kUpgrade +
                " NPUBLAS_UNSUPPORTED_RUNTIME=1 tries it all the same.");
  }
}

bool Runtime::is_simulated() const { return says_simulator(version_text_); }

}  // namespace npublas::device
