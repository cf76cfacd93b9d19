// # Packing rows in which lanes are neighbours
// A row-major B, or a transposed A; where lanes aren't quite neighbours, copies of some rows in
// which they are. Some lanes at a time are collected into a panel that L2 holds; then their maxima
// are known, and the panel is coded, transposed in registers and written.
//
//   for t in the steps of all panels, and as many more as a panel holds:
//     code and write the step that was collected a panel ago
//     collect step t to where that has been
//
// A step is as much depth as makes a line of a coded lane. What was just read to be coded is in the
// L1 cache when it is written over, so that a panel crosses the way to L2 once each way. Lanes that
// need no maxima are coded as soon as a step of them is there: then the panel holds no more.
#pragma once

#include <optional>

#include "npublas/math/pack.hpp"
#include "npublas/math/packed_surface.hpp"
#include "npublas/math/packers.hpp"

namespace npublas {

/// Whether lanes are nearer to each other than the steps of depth are, and there are loops for it.
bool lanes_are_near(const Lanes& source, const Packers& packers);

/// Packs such lanes; nothing if they aren't finite, which is left to pack.cpp.
std::optional<Packed> pack_rows(const Lanes& source, const Packing& packing,
                                const PackedSurface& surface, const Packers& packers, std::byte* to,
                                std::byte* low, const LaneNotes& notes);

}  // namespace npublas
