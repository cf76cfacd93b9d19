// # What is asked of the executor
// A product, and what goes with it: how it is computed, weights in the place of B, and what is done
// to the result on its way out.
#pragma once

#include <memory>

#include "npublas/base/matrix.hpp"
#include "npublas/math/finish.hpp"
#include "npublas/math/method.hpp"
#include "npublas/math/weights.hpp"

namespace npublas {

struct Request {
  Product product;  ///< B may be null where there are weights; then none of C is ever recomputed
  std::shared_ptr<const Weights> weights = nullptr;  ///< in the place of B, if not null
  bool pin = false;                                  ///< the weights stay in the window
  Epilogue epilogue = {};                            ///< of float results; bias for all columns
  /// Methods int8 and int4: the scale of all rows of A for each K tile of the weights; null: their
  /// own. Valid until the product ends.
  const float* a_scales = nullptr;
  /// Methods int8 and int4: the largest magnitude in A. Of int4, floats go up to 119, or 7 where no
  /// more is asked for; an int8 A promises to be in -limit..limit (8: in -8..7).
  int a_limit = 127;
};

}  // namespace npublas
