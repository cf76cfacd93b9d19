// Compiled with -mavx2 -mfma (a fused multiply-add changes nothing where every step is exact), and
// empty on other machines.
#if defined(__x86_64__)
#include "kernels_body.hpp"

namespace npublas::simulator {

constinit const Kernels kAvx2Kernels = kernels("avx2");

}  // namespace npublas::simulator
#endif
