// Marks the functions of math/ that CUDA device code uses as well.
//
// On the host they are always inlined: the CPU kernels are compiled once per instruction set, and
// the linker must never take the copy of one instruction set for another.
#pragma once

#if defined(__CUDACC__)
#define SYNCNORM_HOST_DEVICE __host__ __device__
#else
#define SYNCNORM_HOST_DEVICE __attribute__((always_inline))
#endif
