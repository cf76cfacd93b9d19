#include "npublas/base/crc32.hpp"

#include <array>

namespace npublas {
namespace {

// Eight bytes a step: a byte with n bytes after it within the step adds `tables[n][byte]`, which
// is that byte's remainder with n zeros behind.
constexpr std::size_t kStep = 8;
using Tables = std::array<std::array<std::uint32_t, 256>, kStep>;

constexpr Tables make_tables() {
  constexpr std::uint32_t reflected = 0xedb88320u;
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? reflected : 0);
    tables[0][byte] = rest;
  }
  for (std::size_t zeros = 1; zeros < kStep; ++zeros) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t rest = tables[zeros - 1][byte];
      tables[zeros][byte] = rest >> 8 ^ tables[0][rest & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before) {
  std::uint32_t rest = ~before;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  std::size_t left = bytes.size();
  for (; left >= kStep; data += kStep, left -= kStep) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      next ^= kTables[7 - i][data[i] ^ (rest >> (8 * i) & 0xff)];
      next ^= kTables[3 - i][data[4 + i]];
    }
    rest = next;
  }
  for (; left > 0; ++data, --left) rest = rest >> 8 ^ kTables[0][(rest ^ *data) & 0xff];
  return ~rest;
}

}  // namespace npublas
