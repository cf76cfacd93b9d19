// # Arithmetic
// One product as the chip computes it, bit for bit where that is known:
//
//   int8, int4  exact, in int32 modulo 2^32; int4 leaves as int16, saturated
//   fp16        the products of each aligned 32 depths are summed exactly and rounded once to
//               float32; these sums are added in float32, in the order of the depth
//
// The layouts are gone here: A and C are rows of 16-byte chunks, B is columns of runs of 32 depths.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layouts.hpp"

namespace npublas::simulator {

struct Product {
  const Format* format;
  int m, k, n;

  const std::byte* a;
  Chunks a_chunks;
  const std::byte* b;
  NativeB b_layout;
  std::byte* c;
  Chunks c_chunks;

  bool flush_subnormals = false;  // fp16 operands below 2^-14 count as zero
  bool high_first = false;        // nibble order of int4
  int a_zero = 0, b_zero = 0;     // subtracted from int8 operands
  float scale = 1;                // type 3: c = round(sum * scale) + c_zero; type 9: sum * scale
  int c_zero = 0;
};

/// Computes C. The return value is the number of int4 sums that did not fit into int16.
std::int64_t multiply(const Product& product);

bool has_avx2();

}  // namespace npublas::simulator
