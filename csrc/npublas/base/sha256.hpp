// # SHA-256
// Names a library file beyond doubt, as the key of what was learnt about it. FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace npublas {

/// The digest of `bytes`, in 64 lower-case hexadecimal digits.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace npublas
