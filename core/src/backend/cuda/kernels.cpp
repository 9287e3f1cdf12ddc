#include "backend/cuda/kernels.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "support/cuda_runtime.hpp"

namespace syncnorm::cuda {
namespace {

std::vector<const void*>& listed() {
  static std::vector<const void*> kernels;
  return kernels;
}

}  // namespace

bool list_kernel(const void* kernel) {
  listed().push_back(kernel);
  return true;
}

void load_kernels(int device) {
  const DeviceGuard guard(device);
  for (const void* kernel : listed()) {
    cudaFuncAttributes attributes{};
    check_cuda(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  }
}

int blocks_per_sm(const void* kernel, int threads, int device) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find({kernel, device});
  if (found != known.end()) return found->second;
  int blocks = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0),
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return known.emplace(std::pair(kernel, device), blocks).first->second;
}

}  // namespace syncnorm::cuda
