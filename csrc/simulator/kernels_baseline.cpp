#include "kernels_body.hpp"

namespace npublas::simulator {

constinit const Kernels kBaselineKernels = kernels("baseline");

}  // namespace npublas::simulator
