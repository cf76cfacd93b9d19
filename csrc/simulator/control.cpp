// # The control interface
// How a test, or a person, steers the simulator: plain C functions under a prefix of their own, so
// that ctypes, a C program and the C++ tests use the same ones. All are safe from any thread. They
// return 0, or -1 for a name or value that does not exist.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "accounting.hpp"
#include "cutting.hpp"
#include "faults.hpp"
#include "layouts.hpp"
#include "memory.hpp"
#include "rates.hpp"
#include "report.hpp"
#include "settings.hpp"
#include "timeline.hpp"

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

// ## The clock's model, without running anything

extern "C" {
/// A product, by the vendor's number of its type, and what a context would make of a run of it.
struct npublas_simulator_run {
  std::int32_t type, m, k, n;
  std::int32_t ac_native;
  std::int32_t cores;  // that run such a product at the same time, 1 to 3

  double call_ns;  // from the call to the end, on a core that is idle
  double core_ns;  // of these, the core is busy
  double bytes;    // streamed
  std::int64_t tasks, reusing, tile_rows, piece_columns;
  double passes;  // how often B is streamed
};
}

namespace {

bool model(npublas_simulator_run& run, const Rates& rates) {
  const Format* const format = find_format(run.type);
  if (!format || run.m < 1 || run.k < 1 || run.n < 1 || run.cores < 1 || run.cores > kCores ||
      run.k % kDepthStep || run.n % format->y) {
    return false;
  }
  const bool native = run.ac_native != 0;
  const Cuttable product{
      format->bits, format->y, format->c_bytes, native, program_rows(run.m, native), run.k, run.n};
  const Cut cuts = cut(product);
  const Work asked = work(product, cuts, rates);
  run.core_ns = asked.fixed + std::max(asked.alone, run.cores * asked.bytes / rates.memory);
  run.call_ns = rates.submit + run.core_ns;
  run.bytes = double(cuts.streamed());
  run.tasks = cuts.tasks;
  run.reusing = cuts.reusing;
  run.tile_rows = cuts.tile_rows;
  run.piece_columns = cuts.piece_columns;
  run.passes = double(cuts.b_bytes) / double(format->ab_bytes(std::uint64_t(run.k) * run.n));
  return true;
}

}  // namespace

/// Fills in the rest of each of `count` runs, by the settings as they are (the target's rates while
/// the clock is off). -1, and it stops, at the first that no context could run.
NPUBLAS_EXPORT int npublas_simulator_model(npublas_simulator_run* runs, std::int64_t count) {
  if (!runs || count < 0) return -1;
  const Rates rates = current_rates();
  for (std::int64_t i = 0; i < count; ++i) {
    if (!model(runs[i], rates)) return -1;
  }
  return 0;
}

/// When runs start and end that arrive at these times (in any order; ns), all told: core 0 to 2, or
/// -1 for any; `fixed` and `alone` ns, `bytes` of the memory, which moves `memory` of them per ns.
NPUBLAS_EXPORT int npublas_simulator_timeline(std::int64_t count, const std::int32_t* cores,
                                              const double* arrivals, const double* fixed,
                                              const double* alone, const double* bytes,
                                              double memory, double submit, double task,
                                              double* starts, double* ends) {
  try {
    for (std::int64_t i = 0; i < count; ++i) {
      if (cores[i] < kAnyCore || cores[i] >= kCores || !(arrivals[i] >= 0) || !(alone[i] > 0) ||
          !(fixed[i] >= 0) || !(bytes[i] >= 0)) {
        return -1;
      }
    }
    if (count < 0 || !(memory > 0)) return -1;
    // As the clock uses it: ends are asked for while later runs are still to be told, and what is
    // over before any of these arrives is forgotten.
    Timeline timeline(memory);
    struct Open {
      std::int64_t index;
      Timeline::Ticket ticket;
    };
    std::vector<Open> open;
    for (std::int64_t i = 0; i < count; ++i) {
      const double next = i + 1 < count ? *std::min_element(arrivals + i + 1, arrivals + count)
                                        : std::numeric_limits<double>::infinity();
      open.push_back(
          {i, timeline.add({cores[i], arrivals[i], submit, task, {fixed[i], alone[i], bytes[i]}})});
      std::erase_if(open, [&](const Open& run) {
        if (timeline.end(run.ticket) > next) return false;
        starts[run.index] = timeline.start(run.ticket);
        ends[run.index] = timeline.end(run.ticket);
        timeline.leave(run.ticket);
        return true;
      });
      timeline.forget(next);
    }
    return 0;
  } catch (...) {
    return -1;
  }
}
