// # A program for the simulator
// The vendor's functions and the simulator's controls, found in the library as a program finds
// them, and a product with its memories.
#pragma once

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "npublas/device/abi.hpp"

namespace npublas::program {

struct Library {
  void* handle = dlopen(NPUBLAS_SIMULATOR_PATH, RTLD_NOW | RTLD_LOCAL);

  template <class Function>
  Function* find(const char* name) const {
    auto* const found = reinterpret_cast<Function*>(dlsym(handle, name));
    REQUIRE_MESSAGE(bool(found), name);
    return found;
  }

#define NPUBLAS_FIND(name) abi::name##_fn* const name = find<abi::name##_fn>(#name)
  NPUBLAS_FIND(rknn_matmul_create);
  NPUBLAS_FIND(rknn_matmul_set_io_mem);
  NPUBLAS_FIND(rknn_matmul_set_core_mask);
  NPUBLAS_FIND(rknn_matmul_run);
  NPUBLAS_FIND(rknn_matmul_destroy);
  NPUBLAS_FIND(rknn_create_mem);
  NPUBLAS_FIND(rknn_create_mem_from_fd);
  NPUBLAS_FIND(rknn_destroy_mem);
  NPUBLAS_FIND(rknn_mem_sync);
#undef NPUBLAS_FIND

  int set(const char* name, std::int64_t value) const {
    return find<int(const char*, std::int64_t)>("npublas_simulator_set")(name, value);
  }
  std::int64_t get(const char* name) const {
    std::int64_t value = -1;
    find<int(const char*, std::int64_t*)>("npublas_simulator_get")(name, &value);
    return value;
  }
  int arm(const char* fault, std::int64_t nth, std::int64_t count) const {
    return find<int(const char*, std::int64_t, std::int64_t)>("npublas_simulator_arm")(fault, nth,
                                                                                       count);
  }
  std::int64_t count(const char* name) const {
    std::int64_t value = -1;
    find<int(const char*, std::int64_t*)>("npublas_simulator_counter")(name, &value);
    return value;
  }
  void reset() const { find<void()>("npublas_simulator_reset")(); }
  void release() const { find<void()>("npublas_simulator_release")(); }
};

inline const Library& library() {
  static const Library found;
  return found;
}

/// What must be as it was when everything has been given back.
inline std::array<std::int64_t, 5> alive() {
  const Library& lib = library();
  return {lib.count("contexts"), lib.count("buffers"), lib.count("bytes"), lib.count("fds"),
          lib.count("imports")};
}

/// A context with three bound memories. May fail at each step; then `status` says how.
class Matmul {
 public:
  Matmul(int m, int k, int n, int type, int b_layout, int ac_layout) {
    abi::MatmulInfo info{.m = m, .k = k, .n = n, .type = type};
    info.b_layout = std::int16_t(b_layout);
    info.ac_layout = std::int16_t(ac_layout);
    const Library& lib = library();
    status = lib.rknn_matmul_create(&context, &info, &io);
    const std::array<abi::TensorAttr*, 3> attrs = {&io.a, &io.b, &io.c};
    for (std::size_t i = 0; i < 3 && status == 0; ++i) {
      memory[i] = lib.rknn_create_mem(context, attrs[i]->size);
      if (!memory[i]) status = abi::kMallocFail;
    }
  }
  ~Matmul() {
    for (abi::TensorMem* const mem : memory) {
      if (mem) library().rknn_destroy_mem(context, mem);
    }
    if (context) library().rknn_matmul_destroy(context);
  }
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  std::byte* data(int which) const {
    return static_cast<std::byte*>(memory[std::size_t(which)]->virt_addr);
  }
  void bind() {
    const std::array<abi::TensorAttr*, 3> attrs = {&io.a, &io.b, &io.c};
    for (std::size_t i = 0; i < 3 && status == 0; ++i) {
      status = library().rknn_matmul_set_io_mem(context, memory[i], attrs[i]);
    }
  }
  void sync(int which, int mode) {
    if (status == 0) status = library().rknn_mem_sync(context, memory[std::size_t(which)], mode);
  }
  /// Bind, sync, run, sync.
  void run() {
    bind();
    sync(0, abi::kToDevice);
    sync(1, abi::kToDevice);
    if (status == 0) status = library().rknn_matmul_run(context);
    sync(2, abi::kFromDevice);
  }

  abi::Context context = 0;
  abi::IoAttr io{};
  std::array<abi::TensorMem*, 3> memory{};
  int status = 0;
};

}  // namespace npublas::program
