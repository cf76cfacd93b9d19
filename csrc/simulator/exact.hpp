// # The exact path
// A sum of 32 products of halves as one integer. A half is a multiple of 2^-24 below 2^16, so a
// product is a multiple of 2^-48 below 2^32, and the sum takes 48 + 32 + 5 bits and a sign: 128
// hold it. Slow, and needed only where a group's values lie so far apart that 53 bits do not.
#pragma once

namespace npublas::simulator {

/// The sum of a[i * a_stride] * b[i * b_stride] over a group of 32, rounded once to float. The
/// values are halves; with NaN or infinity among them, the sum is what IEEE arithmetic makes of
/// them.
float exact_group(const double* a, int a_stride, const double* b, int b_stride);

}  // namespace npublas::simulator
