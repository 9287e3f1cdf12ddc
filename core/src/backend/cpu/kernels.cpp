// Compiled once per instruction set, with SYNCBN_ISA naming the namespace. Uses nothing that the
// linker could share between the copies: no function templates from outside this namespace.
#include "backend/cpu/kernels.hpp"

#include "backend/cpu/simd_memory.hpp"
#include "backend/cpu/tuning.hpp"
#include "math/shift.hpp"

namespace syncbn::cpu::SYNCBN_ISA {
namespace {

#include "backend/cpu/kernels_common.inl"
#include "backend/cpu/kernels_planes.inl"
#include "backend/cpu/kernels_rows.inl"

template <class T>
constexpr Kernels kernels_of() {
  return {plane_moments<T>,    plane_normalize<T>,  plane_grad_moments<T>,
          plane_grad_input<T>, row_shift<T>,        row_moments<T>,
          row_normalize<T>,    row_grad_moments<T>, row_grad_input<T>};
}

}  // namespace

extern const Kernels kKernels[4];
const Kernels kKernels[4] = {kernels_of<Half>(), kernels_of<BFloat16>(), kernels_of<float>(),
                             kernels_of<double>()};

}  // namespace syncbn::cpu::SYNCBN_ISA
