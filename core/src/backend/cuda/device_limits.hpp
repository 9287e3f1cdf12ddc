// What a CUDA device offers.
#pragma once

namespace syncnorm::cuda {

struct DeviceLimits {
  int multiprocessors;
  int major;  // of the compute capability
};

// Asked once per device. Throws SYNCNORM_CUDA_ERROR where there is no such device.
const DeviceLimits& limits_of(int device);

}  // namespace syncnorm::cuda
