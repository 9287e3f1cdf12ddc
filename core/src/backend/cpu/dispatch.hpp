// Which instruction set runs on this machine.
#pragma once

#include "backend/cpu/kernels.hpp"
#include "syncbn/syncbn.h"

namespace syncbn::cpu {

// "avx512", "avx2", "neon" or "generic". The environment variable SYNCBN_CPU_ISA asks for a lesser
// one.
const char* instruction_set();

const Kernels& kernels_for(syncbn_dtype dtype);

}  // namespace syncbn::cpu
