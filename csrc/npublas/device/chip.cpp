// # Chips
// One table of limits per chip, found by the name in the device tree. A name that is not in the
// table is refused, not guessed: layouts differ between chips, and the runtime itself dies of a
// segmentation fault on a chip that it does not know.
#include <algorithm>
#include <string_view>
#include <vector>

#include "npublas/device/runtime.hpp"

namespace npublas::device {
namespace {

// The strings of a `compatible` property, most specific first.
std::vector<std::string_view> strings_in(std::string_view property) {
  std::vector<std::string_view> strings;
  while (!property.empty()) {
    const std::size_t end =
        std::min(property.find_first_of(std::string_view("\0\n", 2)), property.size());
    if (end > 0) strings.push_back(property.substr(0, end));
    property.remove_prefix(std::min(end + 1, property.size()));
  }
  return strings;
}

constexpr std::string_view kVendor = "rockchip,";

}  // namespace

const Chip& rk3588() {
  static const Chip chip = {
      .name = "RK3588",
      .cores = 3,
      .depth_step = 32,
      .column_step_int8 = 32,
      .column_step_float16 = 16,
      .column_step_int4 = 64,
      // The height field of the hardware has 11 bits by its manual, and native A and C need
      // multiples of 4: the last one below 2048.
      .max_rows = 2044,
      // The user guide says 4096, create takes anything, and users run tens of thousands. Within a
      // run the runtime cuts N into pieces of 8160 itself, so more columns save next to nothing.
      .max_columns = 8192,
  };
  return chip;
}

const Chip* chip_from_device_tree(const std::string& compatible) {
  // A board names its SoC in an entry of its own; RK3588S and RK3588S2 have fewer pins and the same
  // NPU. Board names ("rockchip,rk3588-evb1") come before it and are not looked at.
  for (const std::string_view entry : strings_in(compatible)) {
    if (entry == "rockchip,rk3588" || entry == "rockchip,rk3588s" || entry == "rockchip,rk3588s2") {
      return &rk3588();
    }
  }
  return nullptr;
}

std::string soc_from_device_tree(const std::string& compatible) {
  // The last entry of the vendor is the most general one: the SoC.
  std::string soc;
  for (const std::string_view entry : strings_in(compatible)) {
    if (entry.starts_with(kVendor)) soc = entry.substr(kVendor.size());
  }
  return soc;
}

}  // namespace npublas::device
