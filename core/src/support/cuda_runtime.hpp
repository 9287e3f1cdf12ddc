// The CUDA runtime with errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include "support/error.hpp"

namespace syncnorm {

// `what` names the call, as in "cudaMemsetAsync".
inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // an error that can be recovered from does not stay for others to find
  fail(SYNCNORM_CUDA_ERROR, what, " failed: ", cudaGetErrorName(error), ", ",
       cudaGetErrorString(error),
       ". A kernel that failed earlier in this process may be reported here; run it again with the "
       "environment variable CUDA_LAUNCH_BLOCKING=1 to find it");
}

// The device of the calling thread while this lives; then the one before again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (device == before_) return;
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace syncnorm
