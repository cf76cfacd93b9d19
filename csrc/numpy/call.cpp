#include "call.hpp"

#include <atomic>

#include "gil.hpp"

namespace npublas {
namespace {

std::atomic<int> default_settings{0};
std::atomic<bool> overrides_watched{false};
PyObject* override_variable = nullptr;  // made at import, never freed

int apply(int settings, int override) {
  const int mask = (override >> kOverrideShift) & kSettingsMask;
  return (settings & ~mask) | (override & mask);
}

/// The override of this context, 0 if it has none, -1 with an exception set if Python failed.
int context_override() {
  PyObject* value = nullptr;
  if (PyContextVar_Get(override_variable, nullptr, &value) < 0) return -1;
  if (!value) return 0;
  const long override = PyLong_AsLong(value);
  Py_DECREF(value);
  return int(override);
}

}  // namespace

Settings unpack(int settings) {
  return {
      .device = Device((settings & kDeviceMask) >> kDeviceShift),
      .precision = Precision((settings & kPrecisionMask) >> kPrecisionShift),
      .float64 = Float64((settings & kFloat64Mask) >> kFloat64Shift),
      .on_fallback = OnFallback((settings & kOnFallbackMask) >> kOnFallbackShift),
  };
}

Call& this_call() {
  thread_local Call call;
  return call;
}

bool read_settings(int override, Settings* settings) {
  int packed = default_settings.load(std::memory_order_relaxed);
  if (overrides_watched.load(std::memory_order_relaxed)) {
    const int here = context_override();
    if (here == -1 && PyErr_Occurred()) return false;
    packed = apply(packed, here);
  }
  *settings = unpack(apply(packed, override));
  return true;
}

bool read_settings_in_loop(Settings* settings) {
  const GilHeld gil;
  return read_settings(0, settings);
}

void set_default_settings(int settings) {
  default_settings.store(settings & kSettingsMask, std::memory_order_relaxed);
}

void watch_overrides() { overrides_watched.store(true, std::memory_order_relaxed); }

PyObject* make_override_variable() {
  if (!override_variable) override_variable = PyContextVar_New("npublas_override", nullptr);
  Py_XINCREF(override_variable);
  return override_variable;
}

}  // namespace npublas
