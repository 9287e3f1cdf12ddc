#include "backend/backend.hpp"

#include "support/error.hpp"

namespace syncnorm {

const Backend& backend_for(syncnorm_device device) {
  switch (device) {
    case SYNCNORM_CPU: return cpu_backend();
    case SYNCNORM_CUDA: return cuda_backend();
  }
  fail(SYNCNORM_INVALID_ARGUMENT, "launch.device is ", static_cast<int>(device),
       "; expected SYNCNORM_CPU or SYNCNORM_CUDA");
}

}  // namespace syncnorm
