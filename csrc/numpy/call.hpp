// # The settings of one call
// They have three layers: the process's own (an atomic), what a `config_context` changed (a context
// variable of Python), and what `precision=` and `device=` say. The callable reads them once, with
// the interpreter's lock held, and leaves them here for the loops, which may run without it.
//
// A set of settings is packed into an int: bits 0-1 device, 2-3 precision, 4 float64, 5-6
// on_fallback, each numbered as in the enumerations of `engine/product.hpp`, and 16-22 threads. An
// override is `mask << 8 | values`: the mask has the bits that it says something about. Bit 7 of
// one says that its precision was asked for by a call, not by a context: packed weights, which have
// theirs, refuse another then.
#pragma once

#include <atomic>
#include <cstdint>

#include "npublas/engine/product.hpp"
#include "numpy_api.hpp"

namespace npublas {

inline constexpr int kDeviceShift = 0, kDeviceMask = 3 << kDeviceShift;
inline constexpr int kPrecisionShift = 2, kPrecisionMask = 3 << kPrecisionShift;
inline constexpr int kFloat64Shift = 4, kFloat64Mask = 1 << kFloat64Shift;
inline constexpr int kOnFallbackShift = 5, kOnFallbackMask = 3 << kOnFallbackShift;
inline constexpr int kThreadsShift = 16, kThreadsMask = 127 << kThreadsShift;
inline constexpr int kSettingsMask = ((1 << 7) - 1) | kThreadsMask;
inline constexpr int kOverrideShift = 8;
inline constexpr int kPrecisionAsked = 1 << 7;

/// The override `inner`, which says something about the bits of its mask, within `outer`.
constexpr int merged(int outer, int inner) {
  const int mask = (inner >> kOverrideShift) & kSettingsMask;
  const int gone = mask & kPrecisionMask ? mask | kPrecisionAsked : mask;
  return (outer & ~gone) | inner;
}

Settings unpack(int settings);
int pack(const Settings& settings);

struct Call {
  Settings settings;
  bool known = false;      ///< `settings` hold; otherwise the loop has to read them itself
  bool failed = false;     ///< an exception is set: what is left of the call does nothing
  bool reported = false;   ///< a fallback was reported: once per call is enough
  bool uncounted = false;  ///< the caller counts, and writes the line about the product
};

/// The call that this thread is in. NumPy runs the loops of a call on the caller's thread.
extern constinit thread_local Call this_call;

// The process's own settings, and whether anybody ever had something to say in the context
// variable.
static_assert(std::atomic<Settings>::is_always_lock_free);
extern std::atomic<Settings> default_settings;
extern std::atomic<bool> overrides_watched;

/// The same as `read_settings` where there are overrides.
bool read_settings_under(int override, Settings* settings);

/// The settings that hold here and now, changed by `override`. Needs the interpreter's lock. If
/// Python fails it leaves the exception set and returns false. Inline: it is done on every call.
inline bool read_settings(int override, Settings* settings) {
  if (override != 0 || overrides_watched.load(std::memory_order_relaxed))
    return read_settings_under(override, settings);
  *settings = default_settings.load(std::memory_order_relaxed);
  return true;
}
/// The same for a loop that runs outside a call of ours, with or without the lock.
bool read_settings_in_loop(Settings* settings);

/// While it lives, `override` holds for this context and what it calls, as a `config_context` does.
/// Needs the interpreter's lock; leaves an exception that is set as it is.
class ContextOverride {
 public:
  explicit ContextOverride(int override);
  ~ContextOverride();
  ContextOverride(const ContextOverride&) = delete;
  ContextOverride& operator=(const ContextOverride&) = delete;
  /// False if Python failed, with the exception set.
  bool holds() const { return token_ != nullptr; }

 private:
  PyObject* token_ = nullptr;
};

/// Python's side: the process's settings, and the context variable with the overrides.
void set_default_settings(int settings);
/// From now on calls look at the context variable; before, nobody had anything to say in it.
void watch_overrides();
/// Makes the context variable. A new reference, or null with an exception set.
PyObject* make_override_variable();

}  // namespace npublas
