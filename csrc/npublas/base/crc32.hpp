// # CRC-32
// The checksum of gzip, PNG and Python's `zlib.crc32`: polynomial 0x04c11db7, reflected. Against
// accidents, not against people: any change within 32 neighbouring bits is seen, of others all but
// one in 2^32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace npublas {

/// The checksum of `bytes`, or of what has the checksum `before` followed by `bytes`.
std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace npublas
