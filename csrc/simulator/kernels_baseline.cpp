#include "kernels.ipp"

namespace npublas::simulator {

const Kernels kBaselineKernels = kernels("baseline");

}  // namespace npublas::simulator
