// What a CUDA device offers.
#pragma once

namespace syncnorm::cuda {

struct DeviceLimits {
  int multiprocessors;
  int major;  // of the compute capability
};

// 0 where there is no driver or no device.
int device_count() noexcept;

// Asked once per device. Throws SYNCNORM_CUDA_ERROR where there is no such device.
const DeviceLimits& limits_of(int device);

}  // namespace syncnorm::cuda
