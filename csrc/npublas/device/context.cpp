#include "npublas/device/context.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <span>

#include "npublas/base/on_chip.hpp"
#include "npublas/device/own_thread.hpp"

namespace npublas::device {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::argument, message); }

/// What a type means for layouts and limits.
struct Format {
  const char* name;
  std::uint32_t bits, sum_bytes;
  std::uint32_t x, y, w;  // of native layout
  int Chip::* column_step;
  int Quirks::* max_depth;
};

const Format& format_of(Type type) {
  static constexpr Format int8 = {
      "int8", 8, 4, 16, 32, 4, &Chip::column_step_int8, &Quirks::max_depth_int8};
  static constexpr Format float16 = {
      "float16", 16, 4, 8, 16, 4, &Chip::column_step_float16, &Quirks::max_depth_float16};
  static constexpr Format int4 = {
      "int4", 4, 2, 32, 64, 8, &Chip::column_step_int4, &Quirks::max_depth_int4};
  return type == Type::int8 ? int8 : type == Type::int4 ? int4 : float16;
}

// One matrix as native layout has it on the RK3588: its dimensions, and the bytes that they take.
struct Surface {
  std::array<std::uint32_t, 4> dims;
  std::uint32_t rank;
  std::uint64_t bytes;
};

struct Surfaces {
  Surface a, b, c;
};

// A [K/x, M, x] or [M, K], B [N/y, K/z, y, z], C [N/w, M, w] or [M, N].
Surfaces surfaces_of(Type type, const ContextShape& shape) {
  const auto [m, k, n] =
      std::array{std::uint32_t(shape.m), std::uint32_t(shape.k), std::uint32_t(shape.n)};
  const Format& format = format_of(type);
  const auto [x, y, z, w] = std::array{format.x, format.y, std::uint32_t(32), format.w};
  const auto bytes = [&](std::uint64_t elements) { return elements * format.bits / 8; };
  Surfaces surfaces{
      .a = {{k / x, m, x, 0}, 3, bytes(std::uint64_t(m) * k)},
      .b = {{n / y, k / z, y, z}, 4, bytes(std::uint64_t(k) * n)},
      .c = {{n / w, m, w, 0}, 3, std::uint64_t(format.sum_bytes) * m * n},
  };
  if (!shape.native) {
    surfaces.a.dims = {m, k, 0, 0};
    surfaces.c.dims = {m, n, 0, 0};
    surfaces.a.rank = surfaces.c.rank = 2;
  }
  return surfaces;
}

std::string list(std::span<const std::uint32_t> dims, std::uint64_t bytes) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(dims[i]);
  }
  return text + "] in " + std::to_string(bytes) + " bytes";
}

// The runtime reports its layouts; npublas packs by the formula. Both must be the same.
void compare(const char* matrix, const Surface& expected, const abi::TensorAttr& reported,
             const std::string& what) {
  const std::span<const std::uint32_t> mine(expected.dims.data(), expected.rank);
  const std::span<const std::uint32_t> theirs(
      reported.dims, std::min<std::uint32_t>(reported.n_dims, abi::kMaxDims));
  if (std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end()) &&
      expected.bytes == reported.size) {
    return;
  }
  throw Error(ErrorKind::device,
              "rknn_matmul_create(" + what + ") lays " + matrix + " out as " +
                  list(theirs, reported.size) + ", npublas packs " + list(mine, expected.bytes) +
                  ". Use librknnrt 2.3.2, and please report this with the output "
                  "of `npublas info`.");
}

// Everything that create does not check itself, or answers by killing the process.
void validate(const Runtime& runtime, Type type, const ContextShape& shape, int core) {
  const Chip& chip = runtime.chip();
  const std::string what = std::string("a context for ") + name_of(type) + " " + to_string(shape);
  const int columns = chip.*format_of(type).column_step;
  const int depth = runtime.quirks().*format_of(type).max_depth;
  if (columns == 0) refuse(what + ": " + chip.name + " has no product of this type.");
  if (depth == 0) {
    refuse(what + ": runtime " + to_string(runtime.version()) + " has no product of this type.");
  }
  if (shape.m <= 0 || shape.k <= 0 || shape.n <= 0) refuse(what + ": every side must be positive.");
  if (shape.native && shape.m != 1 && shape.m % 4 != 0) {
    // The runtime works on surfaces of round_up(M, 4) rows, and reports M: it would read and write
    // past both.
    refuse(what + ": M must be 1 or a multiple of 4 in native layout.");
  }
  if (shape.m > chip.max_rows) {
    refuse(what + ": M may be at most " + std::to_string(chip.max_rows) + ".");
  }
  if (shape.k % chip.depth_step != 0) {
    refuse(what + ": K must be a multiple of " + std::to_string(chip.depth_step) + ".");
  }
  if (shape.k > depth) {
    refuse(what + ": runtime " + to_string(runtime.version()) + " takes K up to " +
           std::to_string(depth) + ".");
  }
  if (shape.n % columns != 0) {
    refuse(what + ": N must be a multiple of " + std::to_string(columns) + ".");
  }
  if (shape.n > chip.max_columns) {
    refuse(what + ": N may be at most " + std::to_string(chip.max_columns) + ".");
  }
  if (type == Type::int4 && !shape.native) refuse(what + ": int4 has native layout only.");
  if (type == Type::int4 && !int4_is_one_task(shape.m, shape.k)) {
    refuse(what + ": A must fit the chip at once.");
  }
  if (core < 0 || core >= chip.cores) {
    refuse(what + ": core " + std::to_string(core) + " does not exist; " + chip.name + " has " +
           std::to_string(chip.cores) + ".");
  }
}

}  // namespace

const char* name_of(Type type) { return format_of(type).name; }

std::string to_string(const ContextShape& shape) {
  return std::to_string(shape.m) + "x" + std::to_string(shape.k) + "x" + std::to_string(shape.n);
}

Context::Context(std::shared_ptr<Runtime> runtime, Type type, const ContextShape& shape, int core)
    : runtime_(std::move(runtime)), type_(type), shape_(shape), core_(core) {
  validate(*runtime_, type_, shape_, core_);
  run_on_own_thread([this] { create(); });
}

void Context::create() {
  const Functions& call = runtime_->call();
  abi::MatmulInfo info{};  // all of it zero: quant types, domain, what later versions add
  info.m = shape_.m;
  info.k = shape_.k;
  info.n = shape_.n;
  info.type = std::int32_t(type_);
  info.b_layout = abi::kNative;
  info.ac_layout = shape_.native ? abi::kNative : abi::kNormal;

  const auto exclusive = runtime_->manage();
  check(call.matmul_create(&context_, &info, &io_), "rknn_matmul_create", description());
  try {
    if (context_ == 0) check(abi::kContextInvalid, "rknn_matmul_create", description());
    const Surfaces expected = surfaces_of(type_, shape_);
    compare("A", expected.a, io_.a, description());
    compare("B", expected.b, io_.b, description());
    compare("C", expected.c, io_.c, description());
  } catch (...) {
    if (context_ != 0) call.matmul_destroy(context_);
    throw;
  }
  pinned_ = call.matmul_set_core_mask != nullptr &&
            call.matmul_set_core_mask(context_, 1 << core_) == abi::kSuccess;
}

Context::~Context() {
  try {
    const auto exclusive = runtime_->manage();
    runtime_->call().matmul_destroy(context_);
  } catch (const Error&) {  // a run hangs: better lost than waited for
  }
  context_ = 0;
}

std::string Context::description() const {
  return std::string(name_of(type_)) + " " + to_string(shape_) +
         (shape_.native ? "" : " (row-major A and C)") + ", core " + std::to_string(core_);
}

void Context::bind(Memory& a, Memory& b, Memory& c) {
  bind_one(a, io_.a, bound_a_);
  bind_one(b, io_.b, bound_b_);
  bind_one(c, io_.c, bound_c_);
}

void Context::bind_one(Memory& memory, abi::TensorAttr& attr, std::uint64_t& bound) {
  // Without rknn_mem_sync binding is what makes the CPU's writes visible, so it is never skipped.
  if (bound == memory.id() && runtime_->call().mem_sync != nullptr) return;
  const std::string what = std::string(attr.name) + " of " + description();
  if (memory.size() < attr.size) {
    refuse("binding " + what + ": the buffer has " + std::to_string(memory.size()) +
           " bytes and the surface " + std::to_string(attr.size) + ".");
  }
  bound = 0;
  const auto exclusive = runtime_->manage();
  check(runtime_->call().matmul_set_io_mem(context_, memory.handle(), &attr),
        "rknn_matmul_set_io_mem", what);
  bound = memory.id();
}

void Context::run() {
  if (bound_a_ == 0 || bound_b_ == 0 || bound_c_ == 0) {
    // The runtime would submit it, and the NPU read and write at address 0.
    refuse("running " + description() + ": A, B and C must be bound first.");
  }
  std::shared_lock shared(runtime_->management(), std::defer_lock);
  if (runtime_->quirks().serialise_with_run) shared.lock();
  const auto start = std::chrono::steady_clock::now();
  const int status = runtime_->call().matmul_run(context_);
  check(status_of_run(status, std::chrono::steady_clock::now() - start), "rknn_matmul_run",
        description());
}

void Context::unbind() { bound_a_ = bound_b_ = bound_c_ = 0; }

}  // namespace npublas::device
