// Answers for CUDA devices in a build without the CUDA backend.
#include "backend/backend.hpp"
#include "support/error.hpp"

namespace syncbn {

const Backend& cuda_backend() {
  fail(SYNCBN_UNSUPPORTED,
       "device is CUDA, but this build of syncbn has no CUDA backend (capabilities say what it "
       "has); expected tensors on the CPU");
}

bool cuda_built() noexcept { return false; }

int cuda_device_count() noexcept { return 0; }

}  // namespace syncbn
