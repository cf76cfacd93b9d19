// # Operands
// Brings the tiles of A and B to where the NPU reads them.
#pragma once

#include "npublas/exec/bench.hpp"
#include "npublas/exec/shop.hpp"

namespace npublas::exec {

/// Packs the tile of A that the step needs, into its slot. Ends the job if the tile can't be
/// packed; throws Error.
void pack_a(Job& job, const Step& step, const Shop& shop);
/// Packs the tile of B, or finds it among the weights in the window.
void pack_b(Job& job, const Step& step, const Shop& shop);

/// True if an unsigned operand is packed less 128, because all bits of the sums count.
bool is_shifted(const Product& product, DType dtype);

}  // namespace npublas::exec
