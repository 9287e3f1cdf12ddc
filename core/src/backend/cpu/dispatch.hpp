// Which instruction set runs on this machine.
#pragma once

#include "backend/cpu/kernels.hpp"
#include "plan/problem.hpp"

namespace syncnorm::cpu {

// "avx512", "avx2", "neon" or "generic". The environment variable SYNCNORM_CPU_ISA asks for a
// lesser one.
const char* instruction_set();

const Kernels& kernels_for(const Problem& problem);

}  // namespace syncnorm::cpu
