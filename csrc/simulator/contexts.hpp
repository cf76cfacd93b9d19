// # Contexts
// A matmul context: one product of a fixed type and layout (with dynamic shapes, several heights),
// three bound memories, and a run. Create checks a lot, bind checks nothing, run trusts what is
// bound, as on a board; only that what would touch foreign memory there is refused and reported
// here.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "layouts.hpp"
#include "memory.hpp"
#include "npublas/device/abi.hpp"

namespace npublas::simulator {

struct Quantisation {
  std::vector<float> scale{1.0f};
  std::vector<std::int32_t> zero{0};
};

class Context {
 public:
  /// Checks and builds; on success `context` is in the table of live ones and `io` is filled, one
  /// for each shape.
  static int create(const abi::MatmulInfo& info, std::span<const abi::MatmulShape> shapes,
                    bool dynamic, abi::IoAttr* io, abi::Context& context);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Each returns a status. Not for two threads at once: `use` finds out.
  int bind(const std::shared_ptr<Memory>& memory, const abi::TensorAttr& attr);
  int set_core_mask(int mask);
  int set_quantisation(const abi::QuantParams& params);
  int get_quantisation(abi::QuantParams& params, float* scale);
  int set_shape(const abi::MatmulShape& shape);
  int run();

  int domain() const { return domain_; }
  /// Held by the one thread that works with this context.
  std::mutex& in_use() { return in_use_; }

 private:
  Context() = default;

  // A range of a buffer that is bound.
  struct Range {
    std::shared_ptr<Buffer> buffer;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    std::byte* data() const { return buffer->device() + offset; }
  };
  bool resolve(const char* name, const std::weak_ptr<Memory>& bound, std::uint64_t need,
               Range& range) const;
  int bind_converted_b(Memory& memory);
  int compute(const Range& a, const Range& b, const Range& c);

  const Format* format_ = nullptr;
  std::vector<abi::MatmulShape> shapes_;
  std::optional<abi::MatmulShape> shape_;  // the current one
  int b_layout_ = abi::kNormal;
  bool native_ac_ = false;
  int b_quant_ = abi::kPerLayerSymmetric;
  int group_size_ = 0;
  int domain_ = 0;
  int core_mask_ = abi::kCoreAuto;
  bool broken_ = false;  // its own two buffers could not be had
  std::array<std::shared_ptr<Buffer>, 2> own_;
  std::array<Quantisation, 3> quantisation_;  // A, B, C
  std::weak_ptr<Memory> a_, b_, c_;
  std::shared_ptr<Buffer> converted_b_;
  std::mutex in_use_;
};

std::shared_ptr<Context> find_context(abi::Context handle);
/// Takes it out of the table; null if it isn't there.
std::shared_ptr<Context> forget_context(abi::Context handle);

}  // namespace npublas::simulator
