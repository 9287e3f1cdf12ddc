// The CUDA devices of this process, and why there are none.
#pragma once

#include <string>

namespace syncnorm {

struct CudaDevices {
  int count = 0;
  std::string problem;  // why count is 0
};

// Defined in builds with CUDA only.
CudaDevices find_cuda_devices();

// Returns the number of devices. Throws SYNCNORM_CUDA_ERROR with the problem if there are none.
int require_cuda_devices();

}  // namespace syncnorm
