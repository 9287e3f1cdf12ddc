// The kernels of identity, relu and leaky_relu.
#include "backend/cpu/kernels_of.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {

extern const Kernels kKernels[4];
const Kernels kKernels[4] = {kernels_of<Half, false>(), kernels_of<BFloat16, false>(),
                             kernels_of<float, false>(), kernels_of<double, false>()};

}  // namespace syncnorm::cpu::SYNCNORM_ISA
