// The kernels of every activation, and in place. In a file of their own: GCC inlines up to a limit
// per file, and the loops of kernels.cpp must be whole.
#include "backend/cpu/kernels_of.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {

extern const Kernels kAnyKernels[4];
const Kernels kAnyKernels[4] = {kernels_of<Half, true>(), kernels_of<BFloat16, true>(),
                                kernels_of<float, true>(), kernels_of<double, true>()};

}  // namespace syncnorm::cpu::SYNCNORM_ISA
