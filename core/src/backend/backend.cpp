#include "backend/backend.hpp"

#include "support/error.hpp"

namespace syncbn {

const Backend& backend_for(syncbn_device device) {
  switch (device) {
    case SYNCBN_CPU: return cpu_backend();
    case SYNCBN_CUDA: return cuda_backend();
  }
  fail(SYNCBN_INVALID_ARGUMENT, "launch.device is ", static_cast<int>(device),
       "; expected SYNCBN_CPU or SYNCBN_CUDA");
}

}  // namespace syncbn
