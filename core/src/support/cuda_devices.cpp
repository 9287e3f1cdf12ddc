#include "support/cuda_devices.hpp"

#include <cstdlib>

#include "support/cuda_runtime.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

constexpr int kRuntimeVersion = CUDART_VERSION;  // of the runtime that is linked in

std::string version_text(int version) {
  return concat("CUDA ", version / 1000, ".", version % 1000 / 10);
}

std::string visible_devices_text() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return visible == nullptr ? "" : concat(" (CUDA_VISIBLE_DEVICES is \"", visible, "\")");
}

std::string problem_text(cudaError_t error) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  // The runtime reports a missing driver as one that is too old.
  if (error == cudaErrorInsufficientDriver && driver == 0)
    return "no NVIDIA driver is installed, or this container has no access to it";
  if (error == cudaErrorInsufficientDriver && driver < kRuntimeVersion) {
    return concat("the NVIDIA driver is too old: it supports ", version_text(driver),
                  ", and this build of syncnorm uses the runtime of ",
                  version_text(kRuntimeVersion), "; update the driver, or build syncnorm with ",
                  version_text(driver), " or older");
  }
  if (error == cudaErrorNoDevice || error == cudaSuccess)
    return concat("the NVIDIA driver reports no CUDA device", visible_devices_text());
  return concat("cudaGetDeviceCount failed: ", cudaGetErrorName(error), ", ",
                cudaGetErrorString(error));
}

}  // namespace

CudaDevices find_cuda_devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return {count, ""};
  const std::string problem = problem_text(error);
  static_cast<void>(cudaGetLastError());  // it is reported here
  return {0, problem};
}

int require_cuda_devices() {
  const CudaDevices devices = find_cuda_devices();
  if (devices.count == 0) fail(SYNCNORM_CUDA_ERROR, "no usable CUDA device: ", devices.problem);
  return devices.count;
}

}  // namespace syncnorm
