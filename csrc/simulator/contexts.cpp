#include "contexts.hpp"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "accounting.hpp"
#include "arithmetic.hpp"
#include "clock.hpp"
#include "faults.hpp"
#include "lock.hpp"
#include "report.hpp"
#include "settings.hpp"

namespace npublas::simulator {
namespace {

// What the vendor's runtime allocates for a context: a command list and a task list.
constexpr std::array<std::uint64_t, 2> kOwnBytes = {2752, 120};

struct Table {
  Lock mutex;
  std::unordered_map<abi::Context, std::shared_ptr<Context>> contexts;
  abi::Context next = 0x5100'0000'0000;  // never reused, so that a stale one is found out
};
Table& table() {
  static Table& value = *new Table;
  return value;
}

bool per_layer(int quant) {
  return quant == abi::kPerLayerSymmetric || quant == abi::kPerLayerAsymmetric;
}
bool per_channel(int quant) {
  return quant == abi::kPerChannelSymmetric || quant == abi::kPerChannelAsymmetric;
}
bool per_group(int quant) {
  return quant == abi::kPerGroupSymmetric || quant == abi::kPerGroupAsymmetric;
}

int refuse(const char* why, long long value) {
  log("matmul create: %s (%lld)", why, value);
  return abi::kParamInvalid;
}

/// Without computing, C is left as it is; but memory that was never written is all zero, which a
/// careful program takes for a broken runtime's answer. So C is filled with ones when it doesn't
/// look as if it had been.
void pretend(const Format& format, std::byte* c, std::uint64_t size) {
  const std::uint32_t one = format.c == abi::kTensorFloat32   ? 0x3f80'0000
                            : format.c == abi::kTensorFloat16 ? 0x3c00
                                                              : 1;
  const auto unit = std::uint64_t(format.c_bytes);
  const auto is_one = [&](std::uint64_t at) { return std::memcmp(c + at, &one, unit) == 0; };
  if (is_one(0) && is_one(size / 2 / unit * unit) && is_one(size - unit)) return;
  for (std::uint64_t at = 0; at < size; at += unit) std::memcpy(c + at, &one, unit);
}

int check(const abi::MatmulInfo& info, const Format* format, const abi::MatmulShape& shape) {
  if (!format) return refuse("unsupported matmul dtype in this platform", info.type);
  if (shape.m <= 0) return refuse("M must be positive", shape.m);
  if (shape.k <= 0) return refuse("K must be positive", shape.k);
  if (shape.n <= 0) return refuse("N must be positive", shape.n);
  if (shape.k % kDepthStep) return refuse("K must be aligned with 32", shape.k);
  if (shape.n % format->y) return refuse("N is not aligned for this type", shape.n);
  if (shape.k > get(Setting::depth_limit)) return refuse("k > limit", shape.k);
  const auto [m, k, n] = shape;
  for (const std::uint64_t bytes :
       {format->ab_bytes(std::uint64_t(m) * k), format->ab_bytes(std::uint64_t(k) * n),
        std::uint64_t(m) * n * format->c_bytes}) {
    if (bytes > UINT32_MAX) return refuse("a matrix of 4 GiB or more", (long long)bytes);
  }
  if (info.b_quant_type < 0 || info.b_quant_type > abi::kPerGroupAsymmetric) {
    return refuse("no such B_quant_type", info.b_quant_type);
  }
  if (info.ac_quant_type != 0) return refuse("AC_quant_type must be 0", info.ac_quant_type);
  if (info.type == abi::kInt8Int8ToFloat32 && per_channel(info.b_quant_type)) {
    return refuse("per-channel quantisation is not supported by this type", info.type);
  }
  if (info.iommu_domain_id < 0 || info.iommu_domain_id >= kDomains) {
    return refuse("no such iommu domain", info.iommu_domain_id);
  }
  return abi::kSuccess;
}

}  // namespace

int Context::create(const abi::MatmulInfo& info, std::span<const abi::MatmulShape> shapes,
                    bool dynamic, abi::IoAttr* io, abi::Context& handle) {
  const Format* const format = find_format(info.type);
  for (const abi::MatmulShape& shape : shapes) {
    if (const int status = check(info, format, shape)) return status;
    if (shape.k != shapes[0].k || shape.n != shapes[0].n) {
      return refuse("dynamic_shapes K and N must be same!", shape.k);
    }
  }
  if (strikes(Fault::create_failure)) return abi::kFail;
  if (!take_context()) return abi::kFail;
  const std::shared_ptr<Context> context(
      new Context);  // gives the taken one back in its destructor
  // The driver's ioctl lets the runtime raise the calling thread's priority.
  if (const auto nice = get(Setting::create_nice)) {
    setpriority(PRIO_PROCESS, id_t(syscall(SYS_gettid)), int(nice));
  }
  context->format_ = format;
  context->shapes_.assign(shapes.begin(), shapes.end());
  if (!dynamic) context->shape_ = shapes[0];
  context->b_layout_ = info.b_layout;
  context->native_ac_ = info.ac_layout != abi::kNormal;
  context->b_quant_ = info.b_quant_type;
  context->group_size_ = info.group_size;
  context->domain_ = info.iommu_domain_id;
  for (std::size_t i = 0; i < kOwnBytes.size(); ++i) {
    context->own_[i] = Buffer::allocate(kOwnBytes[i], context->domain_, false);
    context->broken_ = context->broken_ || !context->own_[i];
  }
  if (context->broken_ && get(Setting::create_reports_enomem)) return abi::kMallocFail;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    describe(*format, shapes[i], info.b_layout, context->native_ac_, io[i]);
  }
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  handle = t.next;
  t.next += 0x40;
  t.contexts[handle] = context;
  return abi::kSuccess;
}

Context::~Context() { give_context(); }

int Context::bind(const std::shared_ptr<Memory>& memory, const abi::TensorAttr& attr) {
  if (strikes(Fault::bind_failure)) return abi::kMallocFail;
  const std::string_view name(attr.name, strnlen(attr.name, sizeof attr.name));
  if (name != "A" && name != "B" && name != "C") {
    violation(Violation::misuse,
              "rknn_matmul_set_io_mem: a tensor named \"%.20s\"; nothing is bound",
              std::string(name).c_str());
    return abi::kSuccess;  // the vendor's runtime says nothing
  }
  if (memory->import_pending) {
    memory->owned = Buffer::import(memory->handle.fd);
    if (!memory->owned) return abi::kMallocFail;
    memory->import_pending = false;
  }
  const std::shared_ptr<Buffer> buffer = memory->buffer();
  if (!buffer) {
    violation(Violation::stale_handle, "rknn_matmul_set_io_mem: %s is a view of a freed buffer",
              attr.name);
    return abi::kFail;
  }
  if (get(Setting::bind_syncs)) {
    buffer->to_device(std::uint64_t(std::max(memory->handle.offset, 0)), memory->handle.size);
  }
  if (name == "A") a_ = memory;
  if (name == "C") c_ = memory;
  if (name == "B") {
    note_management();
    if (b_layout_ == abi::kNormal || b_layout_ == abi::kTransposedNormal) {
      return bind_converted_b(*memory);
    }
    b_ = memory;
  }
  return abi::kSuccess;
}

// A normal B is converted by the CPU, now, into a buffer of the runtime's own: what the program
// writes later is not seen until it binds again.
int Context::bind_converted_b(Memory& memory) {
  const abi::MatmulShape& shape = shapes_[0];
  const std::uint64_t need = format_->ab_bytes(std::uint64_t(shape.k) * shape.n);
  const std::shared_ptr<Buffer> source = memory.buffer();
  const std::uint64_t offset = std::uint64_t(std::max(memory.handle.offset, 0));
  if (need > memory.handle.size || offset + need > source->size()) {
    violation(Violation::out_of_bounds,
              "rknn_matmul_set_io_mem: B needs %llu bytes, its memory has %u at offset %d",
              (unsigned long long)need, memory.handle.size, memory.handle.offset);
    return abi::kFail;
  }
  converted_b_ = nullptr;
  converted_b_ = Buffer::allocate(need, domain_, false);
  if (!converted_b_) return abi::kMallocFail;
  const NativeB native{format_->y, shape.k, shape.n, int(get(Setting::native_b_segment))};
  to_native_b(*format_, b_layout_ == abi::kNormal ? SourceB::normal : SourceB::transposed, shape.k,
              shape.n, source->cpu() + offset, native, get(Setting::int4_high_first) != 0,
              converted_b_->device());
  return abi::kSuccess;
}

int Context::set_core_mask(int mask) {
  const bool one_core =
      mask == abi::kCoreAuto || mask == abi::kCore0 || mask == abi::kCore1 || mask == abi::kCore2;
  if (!one_core || strikes(Fault::refused_mask)) {
    log("Not support core mask: %d, fallback to single core auto mode", mask);
    return abi::kFail;
  }
  core_mask_ = mask;
  return abi::kSuccess;
}

int Context::set_shape(const abi::MatmulShape& shape) {
  for (const abi::MatmulShape& known : shapes_) {
    if (known.m == shape.m && known.k == shape.k && known.n == shape.n) {
      shape_ = known;
      return abi::kSuccess;
    }
  }
  log("rknn_matmul_set_dynamic_shape: %dx%dx%d is not one of the shapes of this context", shape.m,
      shape.k, shape.n);
  return abi::kParamInvalid;
}

int Context::set_quantisation(const abi::QuantParams& params) {
  if (format_->type == abi::kFloat16Float16ToFloat32 ||
      format_->type == abi::kFloat16Float16ToFloat16 || format_->type == abi::kInt4Int4ToInt16) {
    log("rknn_matmul_set_quant_params: type %d has none", format_->type);
    return abi::kParamInvalid;
  }
  const std::string_view name(params.name, strnlen(params.name, sizeof params.name));
  const std::size_t which = name == "A" ? 0 : name == "B" ? 1 : name == "C" ? 2 : 3;
  if (which == 3) {
    log("rknn_matmul_set_quant_params: no matrix \"%.20s\"", std::string(name).c_str());
    return abi::kParamInvalid;
  }
  const auto [m, k, n] = shapes_[0];
  std::int64_t length = 1;
  if (which == 1 && per_channel(b_quant_)) length = n;
  if (which == 1 && per_group(b_quant_)) {
    if (group_size_ <= 0) return abi::kParamInvalid;
    length = std::int64_t(n) * k / group_size_;
  }
  if (!params.scale || params.scale_len != length || (params.zp && params.zp_len != length)) {
    log("rknn_matmul_set_quant_params: %s needs %lld scales", params.name, (long long)length);
    return abi::kParamInvalid;
  }
  Quantisation value;
  value.scale.assign(params.scale, params.scale + length);
  value.zero.assign(std::size_t(length), 0);
  if (params.zp) value.zero.assign(params.zp, params.zp + length);
  for (const std::int32_t zero : value.zero) {
    if (zero < -128 || zero > 127) return abi::kParamInvalid;
  }
  quantisation_[which] = std::move(value);
  return abi::kSuccess;
}

// Documented for type 2 with per-channel B only: the scales of B divided by their largest, which is
// what A's scale is then to be multiplied with.
int Context::get_quantisation(abi::QuantParams& params, float* scale) {
  if (format_->type != abi::kInt8Int8ToInt32 || !per_channel(b_quant_)) return abi::kParamInvalid;
  Quantisation& b = quantisation_[1];
  std::strcpy(params.name, "B");
  params.scale = b.scale.data();
  params.scale_len = std::int32_t(b.scale.size());
  params.zp = b.zero.data();
  params.zp_len = std::int32_t(b.zero.size());
  if (scale) *scale = *std::max_element(b.scale.begin(), b.scale.end());
  return abi::kSuccess;
}

/// What is bound as `name`, if the NPU can touch `need` bytes of it and nothing else.
bool Context::resolve(const char* name, const std::weak_ptr<Memory>& bound, std::uint64_t need,
                      Range& range) const {
  const std::shared_ptr<Memory> memory = bound.lock();
  if (!memory) {
    // A weak pointer that was never set has no owner; one whose memory is gone had one.
    const bool never = !bound.owner_before(std::weak_ptr<Memory>{}) &&
                       !std::weak_ptr<Memory>{}.owner_before(bound);
    violation(never ? Violation::unbound : Violation::stale_handle, "rknn_matmul_run: %s %s", name,
              never ? "is not bound" : "was freed");
    return false;
  }
  range.buffer = memory->buffer();
  if (!range.buffer) {
    violation(Violation::stale_handle, "rknn_matmul_run: the buffer that %s looks into was freed",
              name);
    return false;
  }
  const abi::TensorMem& handle = memory->handle;
  range.offset = std::uint64_t(std::max(handle.offset, 0));
  range.size = need;
  if (handle.offset < 0 || need > handle.size || range.offset + need > range.buffer->size()) {
    violation(Violation::out_of_bounds,
              "rknn_matmul_run: the NPU would touch %llu bytes of %s, its memory has %u (at offset "
              "%d of a buffer of %llu)%s",
              (unsigned long long)need, name, handle.size, handle.offset,
              (unsigned long long)range.buffer->size(),
              program_rows(shape_->m, native_ac_) != shape_->m
                  ? "; native surfaces have a multiple of 4 rows"
                  : "");
    return false;
  }
  if (range.buffer->domain() != domain_) {
    violation(Violation::misuse, "rknn_matmul_run: %s is in iommu domain %d, its context in %d",
              name, range.buffer->domain(), domain_);
    return false;
  }
  return true;
}

int Context::run() {
  if (strikes(Fault::submit_failure)) {
    log("failed to submit!, op id: 0, op name: MatMul, flags: 0x5");
    return abi::kFail;
  }
  for (const Fault fault : {Fault::timeout, Fault::timeout_status}) {
    if (!strikes(fault)) continue;
    std::this_thread::sleep_for(std::chrono::milliseconds(get(Setting::timeout_ms)));
    log("failed to submit!, op id: 0, op name: MatMul, flags: 0x5, errno 110");
    return fault == Fault::timeout ? abi::kFail : abi::kTimeout;
  }
  if (strikes(Fault::hang)) hang();
  if (broken_) {
    log("failed to submit!, op id: 0, op name: MatMul: this context has no command list");
    return abi::kFail;
  }
  if (!shape_) {
    log("rknn_matmul_run: rknn_matmul_set_dynamic_shape comes first");
    return abi::kFail;
  }
  const int rows = program_rows(shape_->m, native_ac_);
  const std::uint64_t depth = std::uint64_t(shape_->k);
  const std::uint64_t columns = std::uint64_t(shape_->n);
  Range a, b, c;
  if (!resolve("A", a_, format_->ab_bytes(rows * depth), a)) return abi::kFail;
  if (b_layout_ == abi::kNormal || b_layout_ == abi::kTransposedNormal) {
    if (!converted_b_) {
      violation(Violation::unbound, "rknn_matmul_run: B is not bound");
      return abi::kFail;
    }
    b = {converted_b_, 0, converted_b_->size()};
  } else if (!resolve("B", b_, format_->ab_bytes(depth * columns), b)) {
    return abi::kFail;
  }
  if (!resolve("C", c_, rows * columns * format_->c_bytes, c)) return abi::kFail;

  const Running running;
  const TimedRun timed({.bits = format_->bits,
                        .group = format_->y,
                        .c_bytes = format_->c_bytes,
                        .native = native_ac_,
                        .rows = rows,
                        .depth = std::int64_t(depth),
                        .columns = std::int64_t(columns)},
                       core_mask_ == abi::kCore0   ? 0
                       : core_mask_ == abi::kCore1 ? 1
                       : core_mask_ == abi::kCore2 ? 2
                                                   : kAnyCore);
  if (get(Setting::run_syncs)) {
    a.buffer->to_device(a.offset, a.size);
  } else if (a.buffer->differs(a.offset, a.size) || b.buffer->differs(b.offset, b.size)) {
    add(Counter::stale_inputs);
    say("rknn_matmul_run: A or B was written, but not synced to the device");
  }
  const int status = compute(a, b, c);
  if (get(Setting::run_syncs)) c.buffer->from_device(c.offset, c.size);
  return status;
}

int Context::compute(const Range& a, const Range& b, const Range& c) {
  const int rows = program_rows(shape_->m, native_ac_);
  const auto [m, k, n] = *shape_;
  add(Counter::runs);
  add(core_mask_ == abi::kCore0   ? Counter::runs_core_0
      : core_mask_ == abi::kCore1 ? Counter::runs_core_1
      : core_mask_ == abi::kCore2 ? Counter::runs_core_2
                                  : Counter::runs_core_auto);
  add(Counter::operations, 2ll * m * k * n);
  // Per-channel and per-group quantisation of the runtimes for RK3588 returns success and zeros.
  if (strikes(Fault::zeros) || !per_layer(b_quant_)) {
    std::memset(c.data(), 0, c.size);
    return abi::kSuccess;
  }
  if (!get(Setting::compute)) {
    pretend(*format_, c.data(), c.size);
    return abi::kSuccess;
  }
  const std::uint64_t a_row = format_->ab_bytes(std::uint64_t(k));
  const std::uint64_t c_row = std::uint64_t(n) * format_->c_bytes;
  Product product{
      .format = format_,
      .m = rows,
      .k = k,
      .n = n,
      .a = a.data(),
      .a_chunks = native_ac_ ? Chunks::native(std::uint64_t(rows)) : Chunks::normal(a_row),
      .b = b.data(),
      .b_layout = {format_->y, k, n, int(get(Setting::native_b_segment))},
      .c = c.data(),
      .c_chunks = native_ac_ ? Chunks::native(std::uint64_t(rows)) : Chunks::normal(c_row),
      .flush_subnormals = get(Setting::flush_subnormals) != 0,
      .high_first = get(Setting::int4_high_first) != 0,
      .a_zero = quantisation_[0].zero[0],
      .b_zero = quantisation_[1].zero[0],
      .c_zero = quantisation_[2].zero[0],
  };
  const float inputs = quantisation_[0].scale[0] * quantisation_[1].scale[0];
  product.scale =
      format_->type == abi::kInt8Int8ToInt8 ? inputs / quantisation_[2].scale[0] : inputs;
  const std::int64_t overflows = multiply(product);
  if (overflows && get(Setting::int4_overflow) == kTrap) {
    violation(Violation::misuse, "rknn_matmul_run: %lld int4 sums do not fit into int16",
              (long long)overflows);
    return abi::kFail;
  }
  return abi::kSuccess;
}

std::shared_ptr<Context> find_context(abi::Context handle) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const auto found = t.contexts.find(handle);
  return found == t.contexts.end() ? nullptr : found->second;
}

std::shared_ptr<Context> forget_context(abi::Context handle) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  const auto found = t.contexts.find(handle);
  if (found == t.contexts.end()) return nullptr;
  std::shared_ptr<Context> context = std::move(found->second);
  t.contexts.erase(found);
  return context;
}

}  // namespace npublas::simulator
