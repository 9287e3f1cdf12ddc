// A block's part of a tensor that is seen as planes: a range of the slots of one channel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

struct PlanePositions {
  __device__ __forceinline__ int operator[](int e) const { return e; }
  __device__ __forceinline__ PositionOrder order() const { return PositionOrder::kConsecutive; }
};

template <class Constant>
struct PlaneLane {
  Constant value;
  __device__ __forceinline__ const Constant& constant(int) const { return value; }
};

template <int V>
class PlaneTile {
 public:
  using Plan = PlanePlan;
  static constexpr int kMaxChannels = 1;
  static constexpr bool kFolded = true;

  std::int64_t first_channel;
  std::int64_t first_partial;  // of one term, where blocks leave partial sums
  int group, split;
  int channels = 1;

  __device__ PlaneTile(const PlanePlan& plan, unsigned item)
      : first_channel(item / static_cast<unsigned>(plan.splits)),
        first_partial(first_channel * plan.splits),
        group(static_cast<int>(first_channel)),
        split(static_cast<int>(item % static_cast<unsigned>(plan.splits))),
        view_(plan.view),
        first_(split * plan.slots_per_split) {
    const std::int64_t end = std::int64_t{first_} + plan.slots_per_split;
    const std::int64_t all = view_.n * view_.slots;
    end_ = static_cast<int>(end < all ? end : all);
  }

  template <Direction kDirection>
  __device__ PlaneWalker<V, kDirection> walker() const {
    return {view_, first_channel, first_ + static_cast<int>(threadIdx.x), end_,
            static_cast<int>(blockDim.x)};
  }

  __device__ PlanePositions positions() const { return {}; }

  template <class Constant>
  __device__ PlaneLane<Constant> lane(const Constant* constants) const {
    return {constants[0]};
  }

  __device__ BlockShape shape() const {
    const int threads = static_cast<int>(blockDim.x);
    return {threads, 1, 1, threads, threads, 1, true};
  }

 private:
  const PlaneView& view_;
  int first_, end_;
};

}  // namespace syncnorm::cuda
