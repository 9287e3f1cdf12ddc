// The kernels of identity, relu and leaky_relu.
#include "backend/cpu/kernels_of.hpp"

namespace syncbn::cpu::SYNCBN_ISA {

extern const Kernels kKernels[4];
const Kernels kKernels[4] = {kernels_of<Half, false>(), kernels_of<BFloat16, false>(),
                             kernels_of<float, false>(), kernels_of<double, false>()};

}  // namespace syncbn::cpu::SYNCBN_ISA
