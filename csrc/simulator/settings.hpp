// # Settings
// How the simulated chip and runtime behave where that is a choice: limits, strictness, and both
// readings of what nobody has measured. Each is one 64-bit integer with a name, so that C, Python
// and the environment (NPUBLAS_SIMULATOR_<NAME>) set them in the same way. docs/simulator.md lists
// them with the evidence for each default.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace npublas::simulator {

enum class Setting {
  strict,
  bind_syncs,
  run_syncs,
  window_bytes,
  context_limit,
  fd_limit,
  depth_limit,
  native_row_step,
  native_b_segment,
  flush_subnormals,
  int4_overflow,
  int4_high_first,
  create_reports_enomem,
  create_nice,
  timeout_ms,
  api_version,
  driver_version,
  isa,
  log,
  clock,
  compute,
  npu_mhz,
  ddr_mhz,
  efficiency_permille,
  core_mb_s,
  memory_mb_s,
  submit_ns,
  task_ns,
  sync_ns,
  sync_mb_s,
  bind_ns,
  create_ns,
};
inline constexpr int kSettings = int(Setting::create_ns) + 1;

// Values of settings that are words outside.
enum Int4Overflow : std::int64_t { kSaturate = 0, kTrap = 1 };
enum Isa : std::int64_t { kBest = 0, kBaseline = 1, kAvx2 = 2 };
enum ClockProfile : std::int64_t { kOff = 0, kFirst = 1, kTarget = 2, kStretch = 3 };

/// The current value. Safe from any thread.
std::int64_t get(Setting setting);

/// The setting of that name, or -1.
int find_setting(std::string_view name);
/// Null past the last.
const char* setting_name(int index);

/// False if the value is out of the setting's range.
bool set(Setting setting, std::int64_t value);
/// The same from text: a decimal number, or one of the setting's words.
bool set_text(Setting setting, std::string_view text);
/// Back to the values that the process started with (the environment's, else the defaults).
void reset_settings();

}  // namespace npublas::simulator
