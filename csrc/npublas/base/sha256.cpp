#include "npublas/base/sha256.hpp"

#include <algorithm>
#include <bit>

namespace npublas {
namespace {

// The constants of FIPS 180-4, section 4.2.2 and 5.3.3, are the first 32 bits of the fractional
// parts of the cube and square roots of the first primes.
struct Constants {
  std::array<std::uint32_t, 64> cube_roots;
  std::array<std::uint32_t, 8> square_roots;
};

// The largest root with root^power <= prime * 2^(32 * power), found bit by bit in exact arithmetic.
std::uint32_t fraction_of_root(std::uint32_t prime, int power) {
  __extension__ using Wide = unsigned __int128;
  std::uint64_t root = 0;
  for (int bit = 36; bit >= 0; --bit) {
    const std::uint64_t trial = root | std::uint64_t(1) << bit;
    // Cubes of up to 37 bits fit in 111 bits, and 311 * 2^96 in 105.
    Wide value = trial;
    for (int i = 1; i < power; ++i) value *= trial;
    if (value <= Wide(prime) << (32 * power)) root = trial;
  }
  return std::uint32_t(root);
}

Constants make_constants() {
  Constants constants{};
  std::size_t count = 0;
  for (std::uint32_t candidate = 2; count < 64; ++candidate) {
    bool prime = true;
    for (std::uint32_t d = 2; d * d <= candidate; ++d) prime = prime && candidate % d != 0;
    if (!prime) continue;
    constants.cube_roots[count] = fraction_of_root(candidate, 3);
    if (count < 8) constants.square_roots[count] = fraction_of_root(candidate, 2);
    ++count;
  }
  return constants;
}

void absorb(std::array<std::uint32_t, 8>& state, const std::uint8_t* block,
            const std::array<std::uint32_t, 64>& constants) {
  std::array<std::uint32_t, 64> w;
  for (std::size_t i = 0; i < 16; ++i) {
    w[i] = std::uint32_t(block[4 * i]) << 24 | std::uint32_t(block[4 * i + 1]) << 16 |
           std::uint32_t(block[4 * i + 2]) << 8 | block[4 * i + 3];
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t low = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
    const std::uint32_t high = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t choice = (e & f) ^ (~e & g);
    const std::uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
    const std::uint32_t first =
        h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + choice + constants[i] + w[i];
    const std::uint32_t second = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + majority;
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<std::uint32_t, 8> added = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state[i] += added[i];
}

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
  static const Constants constants = make_constants();
  auto state = constants.square_roots;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const std::size_t whole = bytes.size() / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) absorb(state, data + at, constants.cube_roots);

  // The rest, a one bit, zeros, and the length in bits as a big-endian number: one block or two.
  std::array<std::uint8_t, 128> tail{};
  const std::size_t rest = bytes.size() - whole;
  std::copy_n(data + whole, rest, tail.begin());
  tail[rest] = 0x80;
  const std::size_t end = rest < 56 ? 64 : 128;
  for (std::size_t i = 0; i < 8; ++i) {
    tail[end - 1 - i] = std::uint8_t(std::uint64_t(bytes.size()) * 8 >> (8 * i));
  }
  for (std::size_t at = 0; at < end; at += 64) absorb(state, &tail[at], constants.cube_roots);

  std::string text;
  for (const std::uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace npublas
