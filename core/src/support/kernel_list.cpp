#include "support/kernel_list.hpp"

#include "support/cuda_runtime.hpp"

namespace syncnorm::cuda {

std::vector<const void*>& KernelList::kernels() {
  static std::vector<const void*> made;  // in time for static initializers of other files
  return made;
}

void load_kernels(int device) {
  const DeviceGuard guard(device);
  for (const void* kernel : KernelList::all()) {
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  }
}

}  // namespace syncnorm::cuda
