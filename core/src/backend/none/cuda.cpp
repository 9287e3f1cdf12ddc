// Answers for CUDA devices in a build without the CUDA backend.
#include "backend/backend.hpp"
#include "support/error.hpp"

namespace syncnorm {

const Backend& cuda_backend() {
  fail(SYNCNORM_UNSUPPORTED,
       "device is CUDA, but this build of syncnorm has no CUDA backend; expected tensors on the "
       "CPU, or a build with SYNCNORM_CUDA=ON (docs/building.md)");
}

bool cuda_built() noexcept { return false; }

CudaDevices cuda_devices() { return {0, "this build of syncnorm has no CUDA backend"}; }

}  // namespace syncnorm
