// # Finishing
// What is done to the sums of a block of C, once, when all of K is in them:
//
//   result = activation(alpha · sum + beta · what was there + bias of the column)
//
// computed in double and rounded once, to the type of the target.
#pragma once

#include <cstdint>

#include "npublas/math/unpack.hpp"

namespace npublas {

enum class Activation : std::uint8_t { none, relu, gelu, gelu_tanh, silu };

struct Epilogue {
  double alpha = 1;
  double beta = 0;               ///< 0: what was there isn't read
  const double* bias = nullptr;  ///< one for each column of C, or null
  Activation activation = Activation::none;

  bool is_plain() const {
    return alpha == 1 && beta == 0 && !bias && activation == Activation::none;
  }
};

/// What rounding to a narrow type did, as NumPy's flags tell it.
struct Rounded {
  bool overflow = false;   ///< what was finite became infinite
  bool underflow = false;  ///< a result below the normal numbers is not exactly representable
};

/// `sums` is row-major, as wide as the target, and of `sums_type`: float32 or float64. The target
/// is of any float type. `bias` begins at the target's first column. NaN is left as it is.
Rounded finish(const void* sums, DType sums_type, const Epilogue& epilogue, const Target& target);

/// What unpacking and finishing saw.
struct Finished {
  Unpacked unpacked;
  Rounded rounded;
};

/// `unpack_floats` into sums of `sums_type`, and `finish` of these, in one pass: for products of
/// which all of K is in one tile.
Finished finish_floats(const FloatSums& sums, const Surface& surface, const double* row_scales,
                       const double* column_scales, DType sums_type, const Epilogue& epilogue,
                       const Target& target);
/// The same of `unpack_quantized`.
Finished finish_quantized(const std::int32_t* sums, const Surface& surface,
                          const double* row_scales, const double* column_scales, DType sums_type,
                          const Epilogue& epilogue, const Target& target);

/// The formulas, each of one number, in double: max(x, 0); x·Φ(x), with erfc, which keeps its
/// digits where Φ is small; its tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415);
/// x/(1 + e^-x).
double activate(Activation activation, double x);

}  // namespace npublas
