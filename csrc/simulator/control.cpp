// # The control interface
// How a test, or a person, steers the simulator: plain C functions under a prefix of their own, so
// that ctypes, a C program and the C++ tests use the same ones. All are safe from any thread. They
// return 0, or -1 for a name or value that does not exist.
#include <cstdint>
#include <cstring>
#include <string>

#include "accounting.hpp"
#include "faults.hpp"
#include "memory.hpp"
#include "report.hpp"
#include "settings.hpp"

using namespace npublas::simulator;

#define NPUBLAS_EXPORT extern "C" __attribute__((visibility("default")))

NPUBLAS_EXPORT int npublas_simulator_set(const char* setting, std::int64_t value) {
  const int index = setting ? find_setting(setting) : -1;
  return index >= 0 && set(Setting(index), value) ? 0 : -1;
}

/// The same from text: a number or one of the setting's words ("baseline").
NPUBLAS_EXPORT int npublas_simulator_set_text(const char* setting, const char* value) {
  const int index = setting && value ? find_setting(setting) : -1;
  return index >= 0 && set_text(Setting(index), value) ? 0 : -1;
}

NPUBLAS_EXPORT int npublas_simulator_get(const char* setting, std::int64_t* value) {
  const int index = setting && value ? find_setting(setting) : -1;
  if (index < 0) return -1;
  *value = get(Setting(index));
  return 0;
}

/// The fault fires at its `nth` chance from now and at the `count - 1` after it; a count of 0 is
/// from then on.
NPUBLAS_EXPORT int npublas_simulator_arm(const char* fault, std::int64_t nth, std::int64_t count) {
  const int index = fault ? find_fault(fault) : -1;
  return index >= 0 && arm(Fault(index), nth, count) ? 0 : -1;
}

NPUBLAS_EXPORT int npublas_simulator_disarm(const char* fault) {
  const int index = fault ? find_fault(fault) : -1;
  if (index < 0) return -1;
  disarm(Fault(index));
  return 0;
}

/// How often the fault has fired since it was armed.
NPUBLAS_EXPORT int npublas_simulator_fired(const char* fault, std::int64_t* count) {
  const int index = fault && count ? find_fault(fault) : -1;
  if (index < 0) return -1;
  *count = fired(Fault(index));
  return 0;
}

/// Lets every run that hangs by the fault "hang" go on; it succeeds, late.
NPUBLAS_EXPORT void npublas_simulator_release(void) { release_hung(); }

NPUBLAS_EXPORT int npublas_simulator_counter(const char* name, std::int64_t* value) {
  return name && value && counter(name, *value) ? 0 : -1;
}

/// Everything but what is alive to zero; peaks start again from there.
NPUBLAS_EXPORT void npublas_simulator_reset_counters(void) { reset_counters(); }

/// Settings as at the start, faults off and hung runs released, counters at zero. What programs
/// hold (contexts, memories) stays theirs and stays counted.
NPUBLAS_EXPORT void npublas_simulator_reset(void) {
  disarm_all();
  release_hung();
  reset_settings();
  close_leaked_fds();
  reset_counters();
  forget_violations();
}

// The names there are, one by one; null past the last.
NPUBLAS_EXPORT const char* npublas_simulator_setting_name(int index) { return setting_name(index); }
NPUBLAS_EXPORT const char* npublas_simulator_fault_name(int index) { return fault_name(index); }
NPUBLAS_EXPORT const char* npublas_simulator_counter_name(int index) { return counter_name(index); }

/// Copies the text of the latest violation ("" if there was none), cut to `size`.
NPUBLAS_EXPORT void npublas_simulator_last_violation(char* text, std::size_t size) {
  try {
    if (text && size) std::snprintf(text, size, "%s", last_violation().c_str());
  } catch (...) {
    *text = '\0';
  }
}
