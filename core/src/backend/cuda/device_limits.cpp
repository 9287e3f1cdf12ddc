#include "backend/cuda/device_limits.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "support/cuda_devices.hpp"
#include "support/cuda_runtime.hpp"
#include "support/error.hpp"

namespace syncnorm::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

DeviceLimits ask(int device) {
  return {attribute(cudaDevAttrMultiProcessorCount, device),
          attribute(cudaDevAttrComputeCapabilityMajor, device)};
}

}  // namespace

const DeviceLimits& limits_of(int device) {
  static std::mutex mutex;
  static std::map<int, DeviceLimits> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const int count = require_cuda_devices();
  if (device < 0 || device >= count)
    fail(SYNCNORM_CUDA_ERROR, "launch.device_index is ", device, ", but this process sees ", count,
         count == 1 ? " CUDA device" : " CUDA devices",
         "; expected 0 <= device_index < that number (see CUDA_VISIBLE_DEVICES)");
  return known.emplace(device, ask(device)).first->second;
}

}  // namespace syncnorm::cuda
