#include "loops.hpp"

#include <chrono>

#include "call.hpp"
#include "flags.hpp"
#include "gil.hpp"
#include "npublas/engine/engine.hpp"
#include "npublas/engine/trust.hpp"
#include "npublas/engine/tuning.hpp"
#include "npublas/exec/trace.hpp"
#include "report.hpp"

namespace npublas {
namespace {

NumpyLoop float32_loop;

// What NumPy hands a loop: pointers, (batch, m, k, n), and strides in bytes.
struct Arguments {
  char** args;
  const npy_intp* dims;
  const npy_intp* steps;
};

Shape shape_of(const Arguments& at) { return {at.dims[0], at.dims[1], at.dims[2], at.dims[3]}; }

Product product_of(const Loop& loop, const Arguments& at) {
  const auto [args, dims, steps] = at;
  return {.a_type = loop.a,
          .b_type = loop.b,
          .out = loop.out,
          .shape = shape_of(at),
          .a = {args[0], steps[0], steps[3], steps[4]},
          .b = {args[1], steps[1], steps[5], steps[6]},
          .c = {args[2], steps[2], steps[7], steps[8]}};
}

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

constexpr std::int64_t kMostHeldDepth = 1000;

/// True if this much work without the interpreter's lock is worth letting go of it, which costs
/// about 0.1 us with taking it again. NumPy has let go of it already for more than 500 results, so
/// only a long depth makes work of a product that still holds it.
bool is_worth_releasing(const Loop& loop, const Shape& shape) {
  return shape.k > kMostHeldDepth && shape.flops() >= 1 << 20 && loop.a != DType::object &&
         loop.a != DType::other;
}

/// Of A, B and C, each once; 0 of types whose size is not known here.
std::uint64_t bytes_of(const Loop& loop, const Shape& shape) {
  return std::uint64_t(shape.batch) * (bytes_of(loop.a) * std::uint64_t(shape.m * shape.k) +
                                       bytes_of(loop.b) * std::uint64_t(shape.k * shape.n) +
                                       bytes_of(loop.out) * std::uint64_t(shape.m * shape.n));
}

[[gnu::noinline]] void compute_at_length(const Loop& loop, const Shape& shape,
                                         const Arguments& at) {
  const GilReleased released(is_worth_releasing(loop, shape));
  if (worth_blocks(loop, shape) && multiply_in_blocks(product_of(loop, at), float32_loop)) {
    return;
  }
  if (!loop.numpy.function) return multiply_plainly(product_of(loop, at));
  loop.numpy(at.args, at.dims, at.steps);
}

void compute_on_cpu(const Loop& loop, const Shape& shape, const Arguments& at) {
  if (shape.k > kMostHeldDepth || worth_blocks(loop, shape) || !loop.numpy.function)
    return compute_at_length(loop, shape, at);
  loop.numpy(at.args, at.dims, at.steps);
}

[[gnu::noinline]] void trace_on_cpu(const Loop& loop, const Shape& shape, const Arguments& at) {
  const trace::Span span(trace::Act::cpu, trace::here, trace::this_product(), bytes_of(loop, shape),
                         std::uint64_t(shape.flops()));
  compute_on_cpu(loop, shape, at);
}

void multiply_on_cpu(const Loop& loop, const Shape& shape, const Arguments& at) {
  if (trace::is_on()) [[unlikely]]
    return trace_on_cpu(loop, shape, at);
  compute_on_cpu(loop, shape, at);
}

/// What the NPU made of a product that was decided for it.
struct Attempt {
  Reason reason;
  bool fallback = false;
  std::string detail;
  double seconds = 0;
};

Attempt attempt_on_npu(const Product& product, const Settings& settings) {
  FlagsKept flags;
  const GilReleased released(true);
  Outcome outcome = multiply(Request{.product = product}, settings);
  const bool done = outcome.reason == Reason::npu;
  if (done && outcome.overflowed) flags.raise(FE_OVERFLOW);
  if (done && outcome.underflowed) flags.raise(FE_UNDERFLOW);
  return {outcome.reason, !done, std::move(outcome.detail), outcome.seconds};
}

// How often a product opens an engine that another thread closes again under it, to change a
// setting of the process. Each time is a race that the other thread has to win; none wins so many.
constexpr int kReopenings = 8;

/// The decision once the engine is open, which only Python can do. False if an exception is set.
bool decide_anew(const Product& product, const Settings& settings, Decision* decision) {
  for (int i = 0; i < kReopenings; ++i) {
    const EngineState state = engine_state();
    if (state != EngineState::closed && state != EngineState::opening) return true;
    if (!open_engine()) return false;
    *decision = decide(settings, product.a_type, product.b_type, product.out, product.shape);
    if (!decision->on_npu) return true;
    // Held by another process, or not to be opened now (but soon, so that it isn't unavailable).
    if (trust::busy() || !unavailable_because().empty()) break;
  }
  if (engine_state() == EngineState::closed) {
    // Another process holds the NPU: this product is the CPU's, the next one may have it.
    *decision = {.on_npu = false, .reason = Reason::busy, .fallback = true};
  }
  return true;
}

/// The way of a product that is for the NPU, or was meant for it, or is to be told about. False if
/// an exception is set.
bool run_with_reports(const Loop& loop, const Arguments& at, const Settings& settings,
                      Decision decision, Call& call) {
  const Product product = product_of(loop, at);
  // Whoever demands the NPU is told if there is none, also for what it could not take.
  const bool demanded = settings.device == Device::npu && decision.reason != Reason::empty;
  Attempt attempt{decision.reason};
  for (int i = 0; i < kReopenings; ++i) {
    if ((decision.on_npu || demanded) && !decide_anew(product, settings, &decision)) return false;
    if (decision.reason == Reason::no_npu && settings.device == Device::npu) {
      return raise_unavailable();
    }
    attempt = {decision.reason, decision.fallback};
    if (!decision.on_npu) break;
    attempt = attempt_on_npu(product, settings);
    if (attempt.reason != Reason::no_npu || engine_state() == EngineState::unavailable) break;
    // Somebody closed the engine meanwhile, to change a setting of the process.
    attempt = {Reason::busy, true, "rather, this process changed its settings all the while"};
  }
  if (attempt.fallback && !call.reported) {
    call.reported = true;
    if (!report_fallback(attempt.reason, loop.a, attempt.detail, settings.on_fallback)) {
      return false;
    }
  }
  if (attempt.reason != Reason::npu) {
    const double start = now();
    multiply_on_cpu(loop, product.shape, at);
    attempt.seconds = now() - start;
  }
  count(loop.a, product.shape, attempt.reason, attempt.fallback, attempt.seconds);
  if (has_news() && !report_news()) return false;
  return !is_verbose() || report_product(loop.a, product.shape, attempt.reason, attempt.seconds);
}

/// Decides, multiplies and counts what is not the CPU's by its shape alone; false if an exception
/// is set.
[[gnu::noinline]] bool run_at_length(const Loop& loop, const Arguments& at,
                                     const Settings& settings, Call& call) {
  const Shape shape = shape_of(at);
  const Decision decision = decide(settings, loop.a, loop.b, loop.out, shape);
  if (!decision.on_npu && !decision.fallback && !is_verbose()) {
    multiply_on_cpu(loop, shape, at);
    count(loop.a, shape, decision.reason, false, 0);
    return true;
  }
  const bool done = run_with_reports(loop, at, settings, decision, call);
  if (call.known) call.failed = !done;
  return done;
}

/// Decides, multiplies and counts; false if an exception is set.
bool run(const Loop& loop, const Arguments& at) {
  const Call call = this_call;
  if (call.failed) return false;
  Settings settings = call.settings;
  if (!call.known && !read_settings_in_loop(&settings)) return false;

  const Shape shape = shape_of(at);
  if (call.uncounted) {
    multiply_on_cpu(loop, shape, at);
    return true;
  }
  trace::begin_product();
  const bool has_method = method_of(loop.a, loop.b, settings.precision).has_value();
  const Reason reason = reason_at_once(settings, loop.a, shape, has_method);
  if (reason == Reason::npu || settings.device == Device::npu || is_verbose()) [[unlikely]]
    return run_at_length(loop, at, settings, this_call);
  multiply_on_cpu(loop, shape, at);
  count(loop.a, shape, reason, false, 0);
  return true;
}

}  // namespace

DType dtype_of(int type) {
  switch (type) {
    case NPY_BOOL:
      return DType::boolean;
    case NPY_BYTE:
      return DType::int8;
    case NPY_UBYTE:
      return DType::uint8;
    case NPY_SHORT:
      return DType::int16;
    case NPY_USHORT:
      return DType::uint16;
    case NPY_INT:
      return DType::int32;
    case NPY_UINT:
      return DType::uint32;
    case NPY_LONG:
      return sizeof(long) == 8 ? DType::int64 : DType::int32;
    case NPY_ULONG:
      return sizeof(long) == 8 ? DType::uint64 : DType::uint32;
    case NPY_LONGLONG:
      return DType::int64;
    case NPY_ULONGLONG:
      return DType::uint64;
    case NPY_HALF:
      return DType::float16;
    case NPY_FLOAT:
      return DType::float32;
    case NPY_DOUBLE:
      return DType::float64;
    case NPY_LONGDOUBLE:
      return DType::longdouble;
    case NPY_CFLOAT:
      return DType::complex64;
    case NPY_CDOUBLE:
      return DType::complex128;
    case NPY_CLONGDOUBLE:
      return DType::clongdouble;
    case NPY_OBJECT:
      return DType::object;
    default:
      return DType::other;
  }
}

void set_float32_loop(const NumpyLoop& loop) { float32_loop = loop; }

void run_loop(char** args, const npy_intp* dims, const npy_intp* steps, void* loop) {
  run(*static_cast<const Loop*>(loop), {args, dims, steps});
}

bool run_loop(const Loop& loop, char* const* args, const npy_intp* dims, const npy_intp* steps) {
  char* own[3] = {args[0], args[1], args[2]};
  return run(loop, {own, dims, steps});
}

}  // namespace npublas
