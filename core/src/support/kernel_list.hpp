// The CUDA kernels of this library, and how they are loaded before they are launched.
#pragma once

#include <vector>

namespace syncnorm::cuda {

// Filled by static initializers, before any thread can load kernels.
class KernelList {
 public:
  static void add(const void* kernel) { kernels().push_back(kernel); }
  static const std::vector<const void*>& all() { return kernels(); }

 private:
  static std::vector<const void*>& kernels();
};

// Loads every kernel of the list on `device`. CUDA otherwise loads a kernel at its first launch and
// may synchronize the context: behind an NCCL kernel that waits for another rank of the same
// process, both ranks hang. Throws SYNCNORM_CUDA_ERROR, for example if this library has no code for
// the device.
void load_kernels(int device);

}  // namespace syncnorm::cuda
