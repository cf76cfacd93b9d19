#include "rates.hpp"

#include <algorithm>
#include <array>

#include "settings.hpp"

namespace npublas::simulator {
namespace {

struct Profile {
  double efficiency, core, memory, submit, task;
};
// By the values of the setting `clock`; its first is off, which is read as the target.
constexpr Profile kTarget{0.95, 12.8, 24, 60'000, 3'000};
constexpr std::array<Profile, 4> kProfiles = {{
    kTarget,
    {0.88, 8.7, 15, 100'000, 8'700},
    kTarget,
    {0.95, 12.8, 28, 30'000, 1'300},
}};

constexpr double kDdrMhz = 2112;  // where the memory's figures were measured

double macs_per_cycle(int bits) { return 8192.0 / bits; }

/// Row-major against native A and C, by the bytes from a row of C to the next: 1.05 up to 4 KiB,
/// then measured at 8, 16 and 32 KiB (the middle of what was seen). Beyond, nobody has looked. A
/// task of a single row writes the same bytes in both layouts.
double layout_factor(const Cuttable& p, const Cut& cut) {
  if (p.native || cut.tile_rows == 1) return 1;
  struct Point {
    double pitch, factor;
  };
  constexpr std::array<Point, 4> points = {{{4, 1.05}, {8, 1.2}, {16, 1.5}, {32, 2.15}}};
  const double pitch = double(p.columns) * p.c_bytes / 1024;
  if (pitch <= points[0].pitch) return points[0].factor;
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (pitch > points[i].pitch) continue;
    const Point from = points[i - 1], to = points[i];
    return from.factor + (pitch - from.pitch) / (to.pitch - from.pitch) * (to.factor - from.factor);
  }
  return points.back().factor;
}

/// The profile's value, unless the setting has one of its own.
double either(Setting setting, double scale, double of_profile) {
  const std::int64_t value = get(setting);
  return value < 0 ? of_profile : double(value) * scale;
}

}  // namespace

Rates current_rates() {
  const Profile& profile = kProfiles[std::size_t(get(Setting::clock))];
  return {
      .cycles = double(get(Setting::npu_mhz)) / 1000,
      .efficiency = either(Setting::efficiency_permille, 1e-3, profile.efficiency),
      .core = either(Setting::core_mb_s, 1e-3, profile.core),
      .memory = either(Setting::memory_mb_s, 1e-3, profile.memory) * double(get(Setting::ddr_mhz)) /
                kDdrMhz,
      .submit = either(Setting::submit_ns, 1, profile.submit),
      .task = either(Setting::task_ns, 1, profile.task),
      .sync = double(get(Setting::sync_ns)),
      .sync_rate = double(get(Setting::sync_mb_s)) / 1000,
      .bind = double(get(Setting::bind_ns)),
      .create = double(get(Setting::create_ns)),
  };
}

Work work(const Cuttable& p, const Cut& cut, const Rates& rates) {
  const double macs = double(p.rows) * double(p.depth) * double(p.columns);
  const double factor = layout_factor(p, cut);
  return {
      .fixed = double(cut.tasks - 1) * rates.task,
      .alone =
          factor * std::max({macs / (macs_per_cycle(p.bits) * rates.cycles * rates.efficiency),
                             double(cut.read()) / rates.core, double(cut.c_bytes) / rates.core}),
      .bytes = factor * double(cut.streamed()),
  };
}

}  // namespace npublas::simulator
