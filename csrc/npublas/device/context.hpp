// # Contexts and memory
// The two things that the runtime hands out, owned: a context multiplies one shape on one core, a
// memory is a buffer that both CPU and NPU see. Each call is checked before it is made, because the
// runtime checks next to nothing (a misfit buffer or an unbound run goes straight to the hardware).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "npublas/device/runtime.hpp"

namespace npublas::device {

enum class Type {
  float16 = abi::kFloat16Float16ToFloat32,
  int8 = abi::kInt8Int8ToInt32,
  int4 = abi::kInt4Int4ToInt16
};
const char* name_of(Type type);

/// The shape of a context: A is m×k, B is k×n, all in elements. B is always in native layout; A and
/// C are in native or in normal (row-major) layout.
struct ContextShape {
  int m, k, n;
  bool native = true;
  auto operator<=>(const ContextShape&) const = default;
};
std::string to_string(const ContextShape& shape);

/// A buffer from rknn_create_mem, allocated through the runtime's own small context, so that it
/// may be bound to any context, and outlive all of them.
class Memory {
 public:
  /// Throws Error(memory) if the runtime has none left.
  Memory(std::shared_ptr<Runtime> runtime, std::size_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const;
  std::size_t size() const;
  /// Makes what the CPU wrote visible to the NPU, and the reverse. Without rknn_mem_sync (before
  /// 1.6.0) they do nothing: binding again is what syncs there, and `Context::bind` does.
  /// `through` is the context whose thread this is: one context is for one thread at a time.
  /// Without it, the runtime's own is used.
  void to_device(const class Context* through = nullptr);
  void from_device(const class Context* through = nullptr);
  abi::TensorMem* handle() const { return memory_; }
  /// Never used twice, as handles are: a context knows by it what is bound.
  std::uint64_t id() const { return id_; }

 private:
  void sync(abi::MemSync direction, const class Context* through);

  std::shared_ptr<Runtime> runtime_;
  abi::TensorMem* memory_;
  std::uint64_t id_;
};

/// A matmul context: native B, quant type 0, IOMMU domain 0.
/// With native A and C, `shape.m` must be 1 or a multiple of 4 (at other heights the runtime reads
/// and writes past the surfaces that it reports). k and n must be multiples of the chip's steps and
/// within its limits. int4 has native layout only, and A must fit the chip at once (create dies
/// where it would split it).
class Context {
 public:
  /// Creates it on a short-lived thread of its own: create sets the calling thread's nice to -19.
  Context(std::shared_ptr<Runtime> runtime, Type type, const ContextShape& shape, int core);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Type type() const { return type_; }
  const ContextShape& shape() const { return shape_; }
  int core() const { return core_; }
  /// False if the runtime refused the core mask; then the driver picks a core, and results are
  /// right.
  bool pinned() const { return pinned_; }
  abi::Context handle() const { return context_; }

  /// Bytes of each surface, as reported by the runtime and checked against the layout's formula.
  std::size_t a_bytes() const { return io_.a.size; }
  std::size_t b_bytes() const { return io_.b.size; }
  std::size_t c_bytes() const { return io_.c.size; }

  /// Binds what isn't bound yet (always, where the runtime has no rknn_mem_sync). The memories must
  /// be at least as large as the surfaces and outlive the binding.
  void bind(Memory& a, Memory& b, Memory& c);
  /// Multiplies what is bound. Blocks. Throws Error(device) or Error(timeout).
  void run();
  /// Forgets what is bound, so that a memory can be freed.
  void unbind();

 private:
  void create();
  void bind_one(Memory& memory, abi::TensorAttr& attr, std::uint64_t& bound);
  std::string description() const;

  std::shared_ptr<Runtime> runtime_;
  Type type_;
  ContextShape shape_;
  int core_;
  bool pinned_ = true;
  abi::Context context_ = 0;
  abi::IoAttr io_{};
  std::uint64_t bound_a_ = 0;  // Memory::id, 0 if nothing is bound
  std::uint64_t bound_b_ = 0;
  std::uint64_t bound_c_ = 0;
};

}  // namespace npublas::device
