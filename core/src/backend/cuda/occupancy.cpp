#include "backend/cuda/occupancy.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <utility>

#include "support/cuda_runtime.hpp"

namespace syncnorm::cuda {

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
