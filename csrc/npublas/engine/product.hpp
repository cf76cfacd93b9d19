// # A product, and what was decided about it
// The plain values that pass between a door (the gufunc, the bindings) and the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace npublas {

enum class DType : std::uint8_t {
  boolean, int8, uint8, int16, uint16, int32, uint32, int64, uint64,
  float16, float32, float64, longdouble, complex64, complex128, clongdouble, object, other
};
inline constexpr int kDTypes = int(DType::other) + 1;
const char* name_of(DType dtype);

// The settings of one call: small, copied, never global.
enum class Device : std::uint8_t { automatic, npu, cpu };
enum class Precision : std::uint8_t { float32, float16, int8 };
enum class Float64 : std::uint8_t { cpu, float32 };
enum class OnFallback : std::uint8_t { allow, warn, error };

struct Settings {
  Device device = Device::automatic;
  Precision precision = Precision::float32;
  Float64 float64 = Float64::cpu;
  OnFallback on_fallback = OnFallback::allow;
};

/// One matrix, or a stack of them: byte strides, any sign, 0 where broadcast.
struct View {
  const void* data;
  std::ptrdiff_t batch_stride;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;
};
struct MutableView {
  void* data;
  std::ptrdiff_t batch_stride;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;
};

/// `batch` independent products C[m×n] = A[m×k] · B[k×n].
struct Shape {
  std::int64_t batch, m, k, n;
  double flops() const { return 2.0 * double(batch) * double(m) * double(k) * double(n); }
};

struct Product {
  DType in;   ///< of A and B
  DType out;  ///< of C: `in`, or int32 for int8 operands
  Shape shape;
  View a, b;
  MutableView c;
};

/// Why a product runs where it runs. `text_of` says it in words; counters are kept by it.
enum class Reason : std::uint8_t {
  npu,               ///< it ran, or is to run, on the NPU
  device_cpu,        ///< device="cpu"
  empty,             ///< nothing to multiply
  small,             ///< predicted faster on the CPU
  dtype,             ///< the NPU has no such type
  float64,           ///< float64 operands under float64="cpu"
  float32_accurate,  ///< float32 operands under precision="float32"
  int8_precision,    ///< precision="int8": not for these operands
  no_npu,            ///< no NPU that can be used; the engine says why
  type_off,          ///< the self-test failed for this type
  quarantined,       ///< the device failed repeatedly
  busy,              ///< another process holds the NPU
  not_finite,        ///< NaN or infinity in the operands
  subnormal,         ///< values that the device flushes to zero
  overflow,          ///< a sum left the range of float32
  memory,            ///< no room for one tile
  device_failed,     ///< a call failed, was retried, and failed again
  wrong_result,      ///< the device's answer failed its check
};
inline constexpr int kReasons = int(Reason::wrong_result) + 1;
/// In words and with the remedy; `in` completes it ("operands are float64: use astype(float32) ...").
std::string text_of(Reason reason, DType in);

struct Decision {
  bool on_npu;
  Reason reason;
  bool fallback;        ///< decided for, or demanded of, the NPU, and can't run there
  double cpu_seconds;   ///< predicted; 0 where nothing was predicted
  double npu_seconds;
};

}  // namespace npublas
