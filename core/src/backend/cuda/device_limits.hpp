// What a CUDA device offers.
#pragma once

#include <cstddef>

namespace syncnorm::cuda {

struct DeviceLimits {
  int multiprocessors;
  std::size_t shared_per_block;  // dynamic, that a kernel may ask for
  std::size_t shared_per_sm;
  bool cooperative;  // grids whose blocks wait for each other
};

// 0 where there is no driver or no device.
int device_count() noexcept;

// Asked once per device. Throws SYNCNORM_CUDA_ERROR where there is no such device.
const DeviceLimits& limits_of(int device);

}  // namespace syncnorm::cuda
