// # Kernels
// The innermost loops: four rows of A times a tile of columns of B, over a stretch of the depth.
// The same source (kernels_body.hpp) is compiled for what every x86-64 or aarch64 has, and for
// AVX2.
//
//   packed A, float:    [depth][4 rows][copies]       packed B, float:    [depth][columns]
//   packed A, integer:  [depth / 2][4 rows][2]        packed B, integer:  [depth / 2][columns][2]
//   sums:               [4 rows][columns], added to
#pragma once

#include <cstdint>

namespace npublas::simulator {

constexpr int kTileRows = 4;
constexpr int kGroup = 32;  // depths that the chip sums exactly before it rounds

struct Kernels {
  const char* name;

  // fp16 as doubles. Each group of 32 products is summed in double and rounded once to float, which
  // is exact as long as a group's products and sums fit into 53 bits; then the groups are added in
  // float, in order. `depth` is a multiple of 32.
  int float_columns;
  int float_copies;  // of each element of A, side by side, for machines that load no broadcast
  void (*float_tile)(const double* a, const double* b, int depth, float* sums);

  // int8 (or int4) as int16. Wraps modulo 2^32. `depth` is even.
  int integer_columns;
  void (*integer_tile)(const std::int16_t* a, const std::int16_t* b, int depth,
                       std::uint32_t* sums);
};

extern const Kernels kBaselineKernels;
extern const Kernels kAvx2Kernels;  // x86-64 only

}  // namespace npublas::simulator
