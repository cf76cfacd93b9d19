#include "settings.hpp"

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>

#include "arithmetic.hpp"
#include "report.hpp"

extern char** environ;

namespace npublas::simulator {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

struct Row {
  const char* name;
  std::int64_t initial, least, most;
  std::array<const char*, 4> words;  // names of the values from 0 on, where they have names
};

constexpr std::array<Row, kSettings> kRows = {{
    {"strict", 0, 0, 1, {}},
    {"bind_syncs", 0, 0, 1, {}},
    {"run_syncs", 0, 0, 1, {}},
    // What field clients allow themselves of one IOMMU domain: 2 GiB less 64 KiB.
    {"window_bytes", 2048 * kMiB - (64 << 10), 0, std::int64_t(1) << 40, {}},
    {"context_limit", 150, 0, 1 << 20, {}},
    {"fd_limit", 1024, 0, 1 << 20, {}},
    {"depth_limit", 10240, 32, 1 << 20, {}},
    {"native_row_step", 4, 1, 4, {}},
    {"native_b_segment", 0, 0, 1 << 20, {}},
    {"flush_subnormals", 0, 0, 1, {}},
    {"int4_overflow", kSaturate, kSaturate, kTrap, {"saturate", "trap"}},
    {"int4_high_first", 0, 0, 1, {}},
    {"create_reports_enomem", 0, 0, 1, {}},
    {"create_nice", 0, -20, 19, {}},
    {"timeout_ms", 0, 0, 600'000, {}},
    {"api_version", 20302, 0, 999'999, {}},
    {"driver_version", 908, 0, 999'999, {}},
    {"isa", kBest, kBest, kAvx2, {"best", "baseline", "avx2"}},
    {"log", 1, 0, 1, {}},
    {"clock", kOff, kOff, kStretch, {"off", "first", "target", "stretch"}},
    {"compute", 1, 0, 1, {}},
    {"npu_mhz", 1000, 1, 10'000, {}},
    {"ddr_mhz", 2112, 1, 10'000, {}},
    // -1 is what the profile says.
    {"efficiency_permille", -1, -1, 1000, {}},
    {"core_mb_s", -1, -1, 1'000'000, {}},
    {"memory_mb_s", -1, -1, 1'000'000, {}},
    {"submit_ns", -1, -1, 1'000'000'000, {}},
    {"task_ns", -1, -1, 1'000'000'000, {}},
    {"sync_ns", 1'100, 0, 1'000'000'000, {}},
    {"sync_mb_s", 10'600, 1, 1'000'000, {}},
    {"bind_ns", 5'000, 0, 1'000'000'000, {}},
    {"create_ns", 2'600'000, 0, 1'000'000'000, {}},
}};

std::array<std::atomic<std::int64_t>, kSettings> current;
std::array<std::int64_t, kSettings> starting;

bool allowed(Setting setting, std::int64_t value) {
  const Row& row = kRows[int(setting)];
  if (value < row.least || value > row.most) return false;
  switch (setting) {
    case Setting::native_row_step:
      return value == 1 || value == 4;
    case Setting::native_b_segment:
      return value % 32 == 0;
    case Setting::efficiency_permille:
    case Setting::core_mb_s:
    case Setting::memory_mb_s:
      return value != 0;
    case Setting::isa:
      return value != kAvx2 || has_avx2();
    default:
      return true;
  }
}

bool parse(Setting setting, std::string_view text, std::int64_t& value) {
  const Row& row = kRows[int(setting)];
  for (std::size_t i = 0; i < row.words.size(); ++i) {
    if (row.words[i] && text == row.words[i]) {
      value = std::int64_t(i);
      return true;
    }
  }
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && !text.empty();
}

// A library that is being loaded has nobody to return an error to: a name or value that it does not
// know is said on stderr and left out.
void read_environment() {
  constexpr std::string_view prefix = "NPUBLAS_SIMULATOR_";
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view line = *entry;
    if (!line.starts_with(prefix)) continue;
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    std::string name(line.substr(prefix.size(), equals - prefix.size()));
    for (char& c : name) c = (c >= 'A' && c <= 'Z') ? char(c - 'A' + 'a') : c;
    const int index = find_setting(name);
    std::int64_t value = 0;
    if (index < 0 || !parse(Setting(index), line.substr(equals + 1), value) ||
        !allowed(Setting(index), value)) {
      say("ignoring %s: %s", *entry,
          index < 0 ? "there is no such setting" : "this setting has no such value");
      continue;
    }
    starting[index] = value;
  }
}

struct Start {
  Start() {
    for (int i = 0; i < kSettings; ++i) starting[i] = kRows[i].initial;
    read_environment();
    reset_settings();
  }
} start;

}  // namespace

std::int64_t get(Setting setting) { return current[int(setting)].load(std::memory_order_relaxed); }

int find_setting(std::string_view name) {
  for (int i = 0; i < kSettings; ++i) {
    if (name == kRows[i].name) return i;
  }
  return -1;
}

const char* setting_name(int index) {
  return index >= 0 && index < kSettings ? kRows[index].name : nullptr;
}

bool set(Setting setting, std::int64_t value) {
  if (!allowed(setting, value)) return false;
  current[int(setting)].store(value, std::memory_order_relaxed);
  return true;
}

bool set_text(Setting setting, std::string_view text) {
  std::int64_t value = 0;
  return parse(setting, text, value) && set(setting, value);
}

void reset_settings() {
  for (int i = 0; i < kSettings; ++i) current[i].store(starting[i], std::memory_order_relaxed);
}

}  // namespace npublas::simulator
