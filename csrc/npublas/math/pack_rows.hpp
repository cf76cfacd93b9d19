// # Packing rows in which lanes are neighbours
// A row-major B, or a transposed A. Some lanes at a time are collected into a panel that L2 holds;
// then their maxima are known, and the panel is coded, transposed in registers and written.
#pragma once

#include <optional>

#include "npublas/math/pack.hpp"
#include "npublas/math/packed_surface.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {

/// Whether lanes are neighbours in memory, and there are loops for it.
bool lanes_are_neighbours(const Lanes& source, const Packers& packers);

/// Packs such lanes; nothing if they aren't finite, which is left to pack.cpp.
std::optional<Packed> pack_rows(const Lanes& source, const Packing& packing,
                                const PackedSurface& surface, const Packers& packers, std::byte* to,
                                std::byte* low, const LaneNotes& notes);

}  // namespace npublas
