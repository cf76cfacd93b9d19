// # The vendor's functions
// Each is a door: count the call, find what the handles stand for, do it, let no exception out. A
// handle that is not alive crashes the vendor's runtime; here it is a violation and -7.
#include <cstring>
#include <new>
#include <type_traits>

#include "accounting.hpp"
#include "clock.hpp"
#include "contexts.hpp"
#include "faults.hpp"
#include "memory.hpp"
#include "npublas/device/abi.hpp"
#include "report.hpp"
#include "settings.hpp"

namespace abi = npublas::abi;
using namespace npublas::simulator;

namespace {

// A scan of the file for the version finds this one line, as in the vendor's library.
[[gnu::used]] constexpr char kVersionText[] = "librknnrt version: 2.3.2 (npublas simulator)";

/// Runs the body of a function that returns a status. A lost device fails everything; `release` is
/// for the functions that give something back, which happens even then.
template <class Body>
int status_of(Function function, Body body, bool release = false) noexcept {
  try {
    count_call(function);
    const bool lost = strikes(Fault::lost_device);
    if (lost && !release) return abi::kFail;
    const int status = body();
    return lost ? abi::kFail : status;
  } catch (const std::bad_alloc&) {
    return abi::kMallocFail;
  } catch (...) {
    return abi::kFail;
  }
}

template <class Body>
abi::TensorMem* memory_of(Function function, Body body) noexcept {
  try {
    count_call(function);
    note_management();
    if (strikes(Fault::lost_device)) return nullptr;
    const std::shared_ptr<Memory> memory = body();
    return memory ? &memory->handle : nullptr;
  } catch (...) {
    return nullptr;
  }
}

std::shared_ptr<Context> living_context(Function function, abi::Context handle) {
  std::shared_ptr<Context> context = handle ? find_context(handle) : nullptr;
  if (handle && !context) {
    violation(Violation::stale_handle, "%s: %#llx is not a living context", name_of(function),
              (unsigned long long)handle);
  }
  return context;
}

/// Runs `body` on a context that no other thread is using at the moment.
template <class Body>
int with_context(Function function, abi::Context handle, Body body) noexcept {
  return status_of(function, [&] {
    const std::shared_ptr<Context> context = living_context(function, handle);
    if (!context) return int(abi::kContextInvalid);
    const std::unique_lock use(context->in_use(), std::try_to_lock);
    if (!use) {
      violation(Violation::concurrent, "%s: another thread is using this context",
                name_of(function));
      return int(abi::kFail);
    }
    return body(*context);
  });
}

std::shared_ptr<Memory> allocate(Function function, abi::Context handle, std::uint64_t size,
                                 bool cached) {
  const std::shared_ptr<Context> context = living_context(function, handle);
  if (!context) {
    // 1.6.0 crashes on context 0.
    if (!handle) violation(Violation::misuse, "%s: context 0", name_of(function));
    return nullptr;
  }
  if (size == 0 || size > UINT32_MAX) {
    log("%s: invalid size %llu", name_of(function), (unsigned long long)size);
    return nullptr;
  }
  return create_memory(size, context->domain(), cached);
}

int destroy_context(Function function, abi::Context handle) noexcept {
  return status_of(
      function,
      [&] {
        note_management();
        if (!handle) return int(abi::kContextInvalid);
        const std::shared_ptr<Context> context = forget_context(handle);
        if (!context) {
          violation(Violation::stale_handle, "%s: %#llx is not a living context", name_of(function),
                    (unsigned long long)handle);
          return int(abi::kContextInvalid);
        }
        if (const std::unique_lock use(context->in_use(), std::try_to_lock); !use) {
          violation(Violation::concurrent, "%s: another thread is using this context",
                    name_of(function));
        }
        return int(abi::kSuccess);
      },
      true);
}

int created(int status) {
  if (status == abi::kSuccess) charge_create();
  return status;
}

// 20302 is 2.3.2.
void write_version(char (&text)[256], std::int64_t version, const char* suffix) {
  std::snprintf(text, sizeof text, "%d.%d.%d%s", int(version / 10000), int(version / 100 % 100),
                int(version % 100), suffix);
}

}  // namespace

#define NPUBLAS_EXPORT extern "C" __attribute__((visibility("default")))

NPUBLAS_EXPORT int rknn_matmul_create(abi::Context* ctx, abi::MatmulInfo* info, abi::IoAttr* io) {
  return status_of(Function::matmul_create, [&] {
    if (!ctx) return int(abi::kContextInvalid);
    if (!info || !io) return int(abi::kParamInvalid);
    note_management();
    const abi::MatmulShape shape{info->m, info->k, info->n};
    return created(Context::create(*info, {&shape, 1}, false, io, *ctx));
  });
}

NPUBLAS_EXPORT int rknn_matmul_create_dynamic_shape(abi::Context* ctx, abi::MatmulInfo* info,
                                                    int shape_num, abi::MatmulShape* shapes,
                                                    abi::IoAttr* io) {
  return status_of(Function::matmul_create_dynamic_shape, [&] {
    if (!ctx) return int(abi::kContextInvalid);
    if (!info || !shapes || !io || shape_num < 1 || shape_num > abi::kMaxDynamicShapes) {
      return int(abi::kParamInvalid);
    }
    note_management();
    return created(Context::create(*info, {shapes, std::size_t(shape_num)}, true, io, *ctx));
  });
}

NPUBLAS_EXPORT int rknn_matmul_set_io_mem(abi::Context ctx, abi::TensorMem* mem,
                                          abi::TensorAttr* attr) {
  return with_context(Function::matmul_set_io_mem, ctx, [&](Context& context) {
    if (!mem || !attr) return int(abi::kParamInvalid);
    const std::shared_ptr<Memory> memory = find_memory(mem);
    if (!memory) {
      violation(Violation::stale_handle, "rknn_matmul_set_io_mem: this is not a living memory");
      return int(abi::kFail);
    }
    const int status = context.bind(memory, *attr);
    if (status == abi::kSuccess) charge_bind();
    return status;
  });
}

NPUBLAS_EXPORT int rknn_matmul_set_core_mask(abi::Context ctx, int mask) {
  return with_context(Function::matmul_set_core_mask, ctx,
                      [&](Context& context) { return context.set_core_mask(mask); });
}

NPUBLAS_EXPORT int rknn_matmul_set_quant_params(abi::Context ctx, abi::QuantParams* params) {
  return with_context(Function::matmul_set_quant_params, ctx, [&](Context& context) {
    return params ? context.set_quantisation(*params) : int(abi::kParamInvalid);
  });
}

NPUBLAS_EXPORT int rknn_matmul_get_quant_params(abi::Context ctx, abi::QuantParams* params,
                                                float* scale) {
  return with_context(Function::matmul_get_quant_params, ctx, [&](Context& context) {
    return params ? context.get_quantisation(*params, scale) : int(abi::kParamInvalid);
  });
}

NPUBLAS_EXPORT int rknn_matmul_set_dynamic_shape(abi::Context ctx, abi::MatmulShape* shape) {
  return with_context(Function::matmul_set_dynamic_shape, ctx, [&](Context& context) {
    return shape ? context.set_shape(*shape) : int(abi::kParamInvalid);
  });
}

NPUBLAS_EXPORT int rknn_matmul_run(abi::Context ctx) {
  return with_context(Function::matmul_run, ctx, [](Context& context) { return context.run(); });
}

NPUBLAS_EXPORT int rknn_matmul_destroy(abi::Context ctx) {
  return destroy_context(Function::matmul_destroy, ctx);
}

NPUBLAS_EXPORT int rknn_destroy(abi::Context ctx) {
  return destroy_context(Function::destroy, ctx);
}

NPUBLAS_EXPORT int rknn_B_normal_layout_to_native_layout(void* in, void* out, int k, int n,
                                                         abi::MatmulInfo* info) {
  return status_of(Function::b_normal_to_native, [&] {
    const Format* const format = info ? find_format(info->type) : nullptr;
    if (!in || !out || k <= 0 || n <= 0 || !format) return int(abi::kParamInvalid);
    const auto up = [](int value, int step) { return (value + step - 1) / step * step; };
    const NativeB native{format->y, up(k, kDepthStep), up(n, format->y),
                         int(get(Setting::native_b_segment))};
    to_native_b(*format, format->bits == 4 ? SourceB::unpacked_int4 : SourceB::normal, k, n,
                static_cast<const std::byte*>(in), native, get(Setting::int4_high_first) != 0,
                static_cast<std::byte*>(out));
    return int(abi::kSuccess);
  });
}

NPUBLAS_EXPORT abi::TensorMem* rknn_create_mem(abi::Context ctx, std::uint32_t size) {
  return memory_of(Function::create_mem,
                   [&] { return allocate(Function::create_mem, ctx, size, true); });
}

NPUBLAS_EXPORT abi::TensorMem* rknn_create_mem2(abi::Context ctx, std::uint64_t size,
                                                std::uint64_t flags) {
  return memory_of(Function::create_mem2, [&]() -> std::shared_ptr<Memory> {
    const bool cached = (flags & abi::kAllocNonCacheable) == 0;
    if (ctx || !(flags & abi::kAllocNoContext)) {
      return allocate(Function::create_mem2, ctx, size, cached);
    }
    if (size == 0 || size > UINT32_MAX) return nullptr;
    std::shared_ptr<Memory> memory = create_memory(size, 0, cached);
    if (memory) memory->owned->leak_fd();  // as 2.3.2 leaks it
    return memory;
  });
}

NPUBLAS_EXPORT abi::TensorMem* rknn_create_mem_from_fd(abi::Context ctx, std::int32_t fd,
                                                       void* virt_addr, std::uint32_t size,
                                                       std::int32_t offset) {
  return memory_of(Function::create_mem_from_fd, [&]() -> std::shared_ptr<Memory> {
    if (!living_context(Function::create_mem_from_fd, ctx)) return nullptr;
    return view_memory(fd, virt_addr, size, offset);
  });
}

NPUBLAS_EXPORT abi::TensorMem* rknn_create_mem_from_phys(abi::Context, std::uint64_t, void*,
                                                         std::uint32_t) {
  return memory_of(Function::create_mem_from_phys, []() -> std::shared_ptr<Memory> {
    log("rknn_create_mem_from_phys: this platform has no physically contiguous memory");
    return nullptr;
  });
}

NPUBLAS_EXPORT int rknn_destroy_mem(abi::Context ctx, abi::TensorMem* mem) {
  return status_of(
      Function::destroy_mem,
      [&] {
        note_management();
        // A memory without a context is given back without one.
        const std::shared_ptr<Memory> known = mem ? find_memory(mem) : nullptr;
        const bool no_context = known && known->owned && known->owned->leaks_fd();
        if (!ctx && !no_context) return int(abi::kContextInvalid);
        if (!mem) return int(abi::kParamInvalid);
        if (ctx && !living_context(Function::destroy_mem, ctx)) return int(abi::kContextInvalid);
        if (!forget_memory(mem)) {
          violation(Violation::stale_handle, "rknn_destroy_mem: this is not a living memory");
          return int(abi::kFail);
        }
        return int(abi::kSuccess);
      },
      true);
}

NPUBLAS_EXPORT int rknn_mem_sync(abi::Context ctx, abi::TensorMem* mem, int mode) {
  return status_of(Function::mem_sync, [&] {
    if (ctx && !living_context(Function::mem_sync, ctx)) return int(abi::kContextInvalid);
    if (!mem) return int(abi::kParamInvalid);
    const std::shared_ptr<Memory> memory = find_memory(mem);
    if (!memory) {
      // The driver's ioctl would follow a pointer into the kernel.
      violation(Violation::stale_handle, "rknn_mem_sync: this is not a living memory");
      return int(abi::kFail);
    }
    if (strikes(Fault::sync_failure)) return int(abi::kFail);
    const std::shared_ptr<Buffer> buffer = memory->buffer();
    const bool known_mode =
        mode == abi::kToDevice || mode == abi::kFromDevice || mode == abi::kBidirectional;
    if (!buffer || buffer->imported() || !known_mode || memory->handle.offset < 0) {
      log("rknn_mem_sync: errno 22");
      return int(abi::kFail);
    }
    const auto offset = std::uint64_t(memory->handle.offset);
    if (mode & abi::kToDevice) buffer->to_device(offset, memory->handle.size);
    if (mode & abi::kFromDevice) buffer->from_device(offset, memory->handle.size);
    charge_sync(memory->handle.size);
    return int(abi::kSuccess);
  });
}

NPUBLAS_EXPORT int rknn_query(abi::Context ctx, int command, void* out, std::uint32_t size) {
  return status_of(Function::query, [&] {
    const std::shared_ptr<Context> context = living_context(Function::query, ctx);
    if (!context) return int(abi::kContextInvalid);
    if (!out) return int(abi::kParamInvalid);
    switch (command) {
      case abi::kQuerySdkVersion: {
        if (size < sizeof(abi::SdkVersion)) return int(abi::kParamInvalid);
        abi::SdkVersion version{};
        write_version(version.api_version, get(Setting::api_version), " (npublas simulator)");
        write_version(version.drv_version, get(Setting::driver_version), "");
        std::memcpy(out, &version, sizeof version);
        return int(abi::kSuccess);
      }
      case abi::kQueryMemSize: {
        if (size < sizeof(abi::MemSize)) return int(abi::kParamInvalid);
        abi::MemSize memory{};
        std::int64_t bytes = 0;
        counter("bytes", bytes);
        memory.dma_total = std::uint64_t(bytes);
        std::memcpy(out, &memory, sizeof memory);
        return int(abi::kSuccess);
      }
      case abi::kQueryInOutNum: {
        constexpr std::uint32_t numbers[2] = {2, 1};  // A and B, C
        if (size < sizeof numbers) return int(abi::kParamInvalid);
        std::memcpy(out, numbers, sizeof numbers);
        return int(abi::kSuccess);
      }
      default:
        log("rknn_query: unsupported command %d", command);
        return int(abi::kParamInvalid);
    }
  });
}

// The definitions agree with what the core calls.
#define NPUBLAS_SAME(name) static_assert(std::is_same_v<decltype(name), abi::name##_fn>)
NPUBLAS_SAME(rknn_matmul_create);
NPUBLAS_SAME(rknn_matmul_create_dynamic_shape);
NPUBLAS_SAME(rknn_matmul_set_io_mem);
NPUBLAS_SAME(rknn_matmul_set_core_mask);
NPUBLAS_SAME(rknn_matmul_set_quant_params);
NPUBLAS_SAME(rknn_matmul_get_quant_params);
NPUBLAS_SAME(rknn_matmul_set_dynamic_shape);
NPUBLAS_SAME(rknn_matmul_run);
NPUBLAS_SAME(rknn_matmul_destroy);
NPUBLAS_SAME(rknn_B_normal_layout_to_native_layout);
NPUBLAS_SAME(rknn_create_mem);
NPUBLAS_SAME(rknn_create_mem2);
NPUBLAS_SAME(rknn_create_mem_from_fd);
NPUBLAS_SAME(rknn_create_mem_from_phys);
NPUBLAS_SAME(rknn_destroy_mem);
NPUBLAS_SAME(rknn_mem_sync);
NPUBLAS_SAME(rknn_query);
#undef NPUBLAS_SAME
