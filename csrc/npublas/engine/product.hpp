// # A product, and what was decided about it
// The plain values that pass between a door (the gufunc, the bindings) and the engine.
#pragma once

#include <cstdint>
#include <string>

#include "npublas/base/dtype.hpp"
#include "npublas/base/matrix.hpp"
#include "npublas/math/method.hpp"

namespace npublas {

// The settings of one call: small, copied, never global. Aligned so that they are read at once.
enum class Device : std::uint8_t { automatic, npu, cpu };
enum class Float64 : std::uint8_t { cpu, float32 };
enum class OnFallback : std::uint8_t { allow, warn, error };

struct alignas(8) Settings {
  Device device = Device::automatic;
  Precision precision = Precision::float32;
  Float64 float64 = Float64::cpu;
  OnFallback on_fallback = OnFallback::allow;
  std::uint8_t threads = 0;  ///< of the host, that pack and unpack; 0: as many as are sensible
};

/// Why a product runs where it runs. `text_of` says it in words; counters are kept by it.
enum class Reason : std::uint8_t {
  npu,             ///< it ran, or is to run, on the NPU
  device_cpu,      ///< device="cpu"
  empty,           ///< nothing to multiply
  small,           ///< predicted faster on the CPU
  dtype,           ///< the NPU has no such type
  float64,         ///< float64 operands under float64="cpu"
  no_npu,          ///< no NPU that can be used; the engine says why
  type_off,        ///< the self-test failed for this type
  quarantined,     ///< the device failed repeatedly
  busy,            ///< another process holds the NPU
  not_finite,      ///< NaN or infinity in the operands
  subnormal,       ///< values that the device flushes to zero
  precision_loss,  ///< magnitudes too far apart for float32 in two float16 parts
  overflow,        ///< a sum left the range of float32
  window,          ///< not even one tile fits the memory window
  memory,          ///< the device, or what is on loan of the window, has no memory left
  device_failed,   ///< a call failed, was retried, and failed again
  weights_file,    ///< the file of packed weights was altered, or can't be read
  wrong_result,    ///< the device's answer failed its check
};
inline constexpr int kReasons = int(Reason::wrong_result) + 1;
/// In words and with the remedy; `in` completes it ("operands are float64: use astype(float32)
/// ...").
std::string text_of(Reason reason, DType in);

struct Decision {
  bool on_npu;
  Reason reason;
  bool fallback;       ///< decided for, or demanded of, the NPU, and can't run there
  double cpu_seconds;  ///< predicted; 0 where nothing was predicted
  double npu_seconds;
};

}  // namespace npublas
