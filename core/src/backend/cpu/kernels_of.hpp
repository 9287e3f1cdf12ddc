// The loops of one dtype as a table. Included by kernels.cpp and kernels_any.cpp, which are
// compiled once per instruction set, with SYNCNORM_ISA naming the namespace. Uses nothing that the
// linker could share between the copies: no function templates from outside this namespace.
#pragma once

#include "backend/cpu/kernels.hpp"
#include "backend/cpu/simd_math.hpp"
#include "backend/cpu/simd_memory.hpp"
#include "backend/cpu/tuning.hpp"
#include "math/normalization.hpp"
#include "math/shift.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {
namespace {

#include "backend/cpu/kernels_common.inl"
#include "backend/cpu/kernels_planes.inl"
#include "backend/cpu/kernels_rows.inl"

template <class T, bool kAny>
constexpr Kernels kernels_of() {
  return {plane_moments<T>,
          plane_normalize<T, kAny>,
          plane_grad_moments<T, kAny>,
          plane_grad_input<T, kAny>,
          row_shift<T>,
          row_moments<T>,
          row_normalize<T, kAny>,
          row_grad_moments<T, kAny>,
          row_grad_input<T, kAny>};
}

}  // namespace
}  // namespace syncnorm::cpu::SYNCNORM_ISA
