// What a CUDA thread knows of itself.
#pragma once

#include <cuda_runtime_api.h>

#define SIMT_API __attribute__((visibility("default")))

// Set whenever another CUDA thread of the block goes on.
extern SIMT_API constinit thread_local uint3 threadIdx;
extern SIMT_API constinit thread_local uint3 blockIdx;
extern SIMT_API constinit thread_local dim3 blockDim;
extern SIMT_API constinit thread_local dim3 gridDim;

namespace simt {

// The block's dynamic shared memory: exactly as long as the launch said, full of garbage.
SIMT_API unsigned char* dynamic_shared();

}  // namespace simt
