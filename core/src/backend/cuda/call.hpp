// One call on a CUDA device: what its launches share.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device_limits.hpp"
#include "backend/cuda/geometry.hpp"
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
        device_(launch.device_index),
        control_(static_cast<unsigned*>(launch.control)) {}

  const Problem& problem;
  const DeviceLimits& limits;
  const cudaStream_t stream;
  const Scratch scratch;

  // Where the blocks of a pass leave partial sums, with the tickets at zero.
  Merge merge(const Geometry& geometry) const {
    if (geometry.splits() == 1) return {nullptr, nullptr, 1};
    if (control_ != nullptr) return {scratch.partials, control_, geometry.splits()};
    const auto bytes = static_cast<std::size_t>(geometry.groups()) * sizeof(unsigned);
    check_cuda(cudaMemsetAsync(scratch.tickets, 0, bytes, stream), "cudaMemsetAsync");
    return {scratch.partials, scratch.tickets, geometry.splits()};
  }

 private:
  DeviceGuard device_;
  unsigned* control_;
};

}  // namespace syncnorm::cuda
