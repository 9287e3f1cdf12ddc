// One call on a CUDA device: what its launches share.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device_limits.hpp"
#include "backend/cuda/occupancy.hpp"
#include "backend/cuda/scratch.hpp"
#include "plan/problem.hpp"
#include "support/cuda_runtime.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

class Call {
 public:
  Call(const Problem& problem_, const syncnorm_launch& launch)
      : problem(problem_),
        limits(limits_of(launch.device_index)),
        stream(static_cast<cudaStream_t>(launch.stream)),
        scratch(launch.workspace),
        device_index_(launch.device_index),
        device_(launch.device_index),
        control_(static_cast<unsigned*>(launch.control)) {}

  const Problem& problem;
  const DeviceLimits& limits;
  const cudaStream_t stream;
  const Scratch scratch;

  // Blocks of a kernel that are on the device at a time.
  std::int64_t wave(const void* kernel, int threads) const {
    return static_cast<std::int64_t>(limits.multiprocessors) *
           blocks_per_sm(kernel, threads, device_index_);
  }

  // Whether a kernel may begin while the one before it still runs.
  bool overlaps() const { return limits.major >= 9; }

  // Where the blocks of a pass leave partial sums, with the tickets of all groups at zero.
  Merge merge(std::int64_t groups, int splits) const {
    if (splits == 1) return {nullptr, nullptr};
    if (control_ != nullptr) return {scratch.partials, control_};
    const auto bytes = static_cast<std::size_t>(groups) * sizeof(unsigned);
    check_cuda(cudaMemsetAsync(scratch.tickets, 0, bytes, stream), "cudaMemsetAsync");
    return {scratch.partials, scratch.tickets};
  }

 private:
  int device_index_;
  DeviceGuard device_;
  unsigned* control_;
};

}  // namespace syncnorm::cuda
