#include "kernels.ipp"

namespace npublas::simulator {

constinit const Kernels kBaselineKernels = kernels("baseline");

}  // namespace npublas::simulator
