// # Fakes, from the tests' side
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "fakes/fake.hpp"
#include "npublas/device/runtime.hpp"

namespace npublas::fake {

inline std::string path_of(const std::string& name) {
  return std::string(NPUBLAS_FAKES) + "/" + name + ".so";
}

/// The switches of a fake, as they were before anything happened.
inline Control& reset(const std::string& name) {
  void* const library = ::dlopen(path_of(name).c_str(), RTLD_NOW);
  reinterpret_cast<void (*)()>(::dlsym(library, "fake_reset"))();
  return *reinterpret_cast<Control* (*)()>(::dlsym(library, "fake_control"))();
}

inline std::shared_ptr<device::Runtime> load(const std::string& name) {
  return device::Runtime::load(path_of(name));
}

/// An environment variable that has another value for a while.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old, was_set_ = true;
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() { was_set_ ? ::setenv(name_, old_.c_str(), 1) : ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::string old_;
  bool was_set_ = false;
};

/// A file that exists for a while.
class File {
 public:
  File(const std::string& name, const std::string& content)
      : path_(std::string(NPUBLAS_FAKES) + "/" + name) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~File() { ::remove(path_.c_str()); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// What the device tree of an RK3588 board says.
inline std::string rk3588_board() {
  using namespace std::string_literals;
  return "rockchip,rk3588s-orangepi-5\0rockchip,rk3588\0"s;
}

/// The message and kind of the Error that `action` throws; empty if it throws none.
struct Failure {
  ErrorKind kind = ErrorKind::argument;
  std::string message;
  bool says(const std::string& words) const { return message.find(words) != message.npos; }
};
template <typename Action>
Failure failure_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {};
}

}  // namespace npublas::fake
