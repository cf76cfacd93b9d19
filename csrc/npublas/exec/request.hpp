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
  float a_scale = 0;  ///< method int8: of all rows of A; 0: their own
  int a_limit = 127;  ///< method int8: the largest magnitude in A
};

}  // namespace npublas
