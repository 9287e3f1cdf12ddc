// Both kinds of pass over planes: a block works on a range of the slots of one channel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

template <int V, Direction kDirection>
__device__ PlaneWalker<V, kDirection> plane_walker(const PlanePlan& plan, std::int64_t channel,
                                                   std::int64_t split) {
  const std::int64_t first = split * plan.slots_per_split;
  const std::int64_t all = plan.view.n * plan.view.slots;
  const std::int64_t end = first + plan.slots_per_split < all ? first + plan.slots_per_split : all;
  return {plan.view, channel, first + threadIdx.x, end, blockDim.x};
}

// value of thread 0, for all.
template <class Constant, class Prepare>
__device__ Constant prepare_once(Constant* shared, Prepare&& prepare) {
  if (threadIdx.x == 0) *shared = prepare();
  __syncthreads();
  return *shared;
}

// Sums per term, of all elements.
template <int kTerms>
struct PlaneTotals {
  double sums[kTerms] = {};
  __device__ __forceinline__ void add(int t, int, double sum) { sums[t] += sum; }
};

// The block's sum of one term, which thread 0 has.
__device__ inline void leave_partial(const Merge& merge, int split, int terms, int term,
                                     std::int64_t c, std::int64_t channel, double sum) {
  if (threadIdx.x == 0)
    merge.partials[(static_cast<std::int64_t>(split) * terms + term) * c + channel] = sum;
}

template <class Terms, int V, int kUnroll>
__device__ __forceinline__ void sum_planes(const Terms& terms, const PlanePlan& plan,
                                           const Merge& merge) {
  using Constant = typename Terms::Constant;
  __shared__ Constant constant;
  __shared__ double scratch[kWarp];
  const std::int64_t c = plan.view.c;
  const std::int64_t channel = blockIdx.x / static_cast<unsigned>(plan.splits);
  const int split = static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.splits));
  const auto walker = plane_walker<V, Direction::kForward>(plan, channel, split);
  const PlaneLane<Constant> lane{prepare_once(&constant, [&] { return terms.prepare(channel); })};

  PlaneTotals<Terms::kTerms> totals;
  accumulate<kUnroll, V>(terms, walker, lane, totals);
  double sums[Terms::kTerms];
#pragma unroll
  for (int t = 0; t < Terms::kTerms; ++t) sums[t] = sum_of_block(totals.sums[t], scratch);

  if (plan.splits > 1) {
    for (int t = 0; t < Terms::kTerms; ++t)
      leave_partial(merge, split, Terms::kTerms, t, c, channel, sums[t]);
    if (!is_last_block(&merge.tickets[channel], plan.splits)) return;
    if (threadIdx.x >= kWarp) return;
    for (int t = 0; t < Terms::kTerms; ++t)
      sums[t] = merged(merge, Terms::kTerms, t, c, channel, static_cast<int>(threadIdx.x), kWarp);
  }
  if (threadIdx.x == 0) terms.finish(channel, sums, lane.value);
}

template <class Map, int V, int kUnroll>
__device__ __forceinline__ void map_planes(const Map& map, const PlanePlan& plan) {
  const bool agree = ranks_agree(map.channels);
  finish_channels(map, agree);
  using Constant = typename Map::Constant;
  __shared__ Constant constant;
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const std::int64_t channel = block / static_cast<unsigned>(plan.splits);
  const std::int64_t split = block % static_cast<unsigned>(plan.splits);
  auto walker = plane_walker<V, Direction::kBackward>(plan, channel, split);
  const PlaneLane<Constant> lane{prepare_once(&constant, [&] { return map.prepare(channel); })};
  for_each_piece<kUnroll, V>(
      map, walker, walker.left(),
      [&](const auto& inputs, const Piece& piece, auto) { map.apply(inputs, piece, lane, agree); });
}

}  // namespace syncnorm::cuda
