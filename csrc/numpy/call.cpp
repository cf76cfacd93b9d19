#include "call.hpp"

#include "gil.hpp"

namespace npublas {

constinit thread_local Call this_call;
std::atomic<Settings> default_settings{Settings{}};
std::atomic<bool> overrides_watched{false};

namespace {

PyObject* override_variable = nullptr;  // made at import, never freed

int apply(int settings, int override) {
  const int mask = (override >> kOverrideShift) & kSettingsMask;
  return (settings & ~mask) | (override & mask);
}

/// Puts an exception that is set aside, and back at the end.
class ErrorKept {
 public:
#if PY_VERSION_HEX >= 0x030c0000
  ErrorKept() : value_(PyErr_GetRaisedException()) {}
  ~ErrorKept() { PyErr_SetRaisedException(value_); }
#else
  ErrorKept() { PyErr_Fetch(&type_, &value_, &traceback_); }
  ~ErrorKept() { PyErr_Restore(type_, value_, traceback_); }
#endif
  ErrorKept(const ErrorKept&) = delete;
  ErrorKept& operator=(const ErrorKept&) = delete;

 private:
  PyObject* value_;
#if PY_VERSION_HEX < 0x030c0000
  PyObject *type_, *traceback_;
#endif
};

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
      .threads = std::uint8_t((settings & kThreadsMask) >> kThreadsShift),
  };
}

int pack(const Settings& settings) {
  return int(settings.device) << kDeviceShift | int(settings.precision) << kPrecisionShift |
         int(settings.float64) << kFloat64Shift | int(settings.on_fallback) << kOnFallbackShift |
         int(settings.threads) << kThreadsShift;
}

bool read_settings_under(int override, Settings* settings) {
  int packed = pack(default_settings.load(std::memory_order_relaxed));
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

ContextOverride::ContextOverride(int override) {
  const int outer = context_override();
  if (outer == -1 && PyErr_Occurred()) return;
  PyObject* const value = PyLong_FromLong(merged(outer, override));
  if (!value) return;
  watch_overrides();
  token_ = PyContextVar_Set(override_variable, value);
  Py_DECREF(value);
}

ContextOverride::~ContextOverride() {
  if (!token_) return;
  const ErrorKept error;
  if (PyContextVar_Reset(override_variable, token_) < 0) PyErr_WriteUnraisable(override_variable);
  Py_DECREF(token_);
}

void set_default_settings(int settings) {
  default_settings.store(unpack(settings), std::memory_order_relaxed);
}

void watch_overrides() { overrides_watched.store(true, std::memory_order_relaxed); }

PyObject* make_override_variable() {
  if (!override_variable) override_variable = PyContextVar_New("npublas_override", nullptr);
  Py_XINCREF(override_variable);
  return override_variable;
}

}  // namespace npublas
