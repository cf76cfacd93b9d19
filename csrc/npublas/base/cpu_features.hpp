// # CPU features
// Which instructions the loops over memory are made of. The ones that have variants are compiled
// once for each, in files of their own with flags of their own, and pick one here at each call.
//
// Such a file keeps everything in an anonymous namespace and instantiates nothing of the standard
// library: a function with external linkage that was compiled for AVX-512 could be the copy that
// the linker keeps for all.
#pragma once

#include <array>
#include <cstdint>

namespace npublas {

/// Sets of instructions. `avx2` has F16C and FMA with it, `avx512` F, BW, VL, DQ and VBMI.
/// `portable` is what the compiler makes of plain loops, for what every machine of its kind has;
/// NEON is the baseline of aarch64, with the conversions of float16.
enum class Isa : std::uint8_t { portable, neon, avx2, avx512 };
inline constexpr int kIsas = 4;
inline constexpr std::array<Isa, kIsas> kAllIsas = {Isa::portable, Isa::neon, Isa::avx2,
                                                    Isa::avx512};

constexpr const char* name_of(Isa isa) {
  constexpr const char* names[kIsas] = {"portable", "neon", "avx2", "avx512"};
  return names[int(isa)];
}

/// Whether this machine, and its operating system, have it.
bool has(Isa isa);

/// What is used: the last of those that this machine has, or the one that was demanded. A relaxed
/// load, so it may be asked at each call.
Isa isa_in_use();

/// For tests, which hold the variants against each other: use this one, which the machine must
/// have, from now on.
void use_isa(Isa isa);

}  // namespace npublas
