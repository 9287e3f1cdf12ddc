// Sums over a thread's values, over a block, and over the blocks of a channel: always in the same
// order, so that every run gives the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device/shared_memory.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// Pieces whose terms are summed in the arithmetic type before the sums go on in float64.
constexpr std::int64_t kPiecesPerSum = 64;

// Sums the terms of all pieces of a walk: totals.add(t, e, sum) adds to term t of element e.
template <int kUnroll, int V, class Terms, class Walker, class Lane, class Totals>
__device__ __forceinline__ void accumulate(const Terms& terms, Walker walker, const Lane& lane,
                                           Totals& totals) {
  using A = typename Terms::A;
  while (walker.left() > 0) {
    A sums[Terms::kTerms][V] = {};
    const std::int64_t count = walker.left() < kPiecesPerSum ? walker.left() : kPiecesPerSum;
    for_each_piece<kUnroll, V>(terms, walker, count,
                               [&](const auto& inputs, const Piece& piece, auto whole) {
                                 terms.add(inputs, piece, whole, lane, sums);
                               });
#pragma unroll
    for (int t = 0; t < Terms::kTerms; ++t)
#pragma unroll
      for (int e = 0; e < V; ++e) totals.add(t, e, static_cast<double>(sums[t][e]));
  }
}

// Over `lanes` neighbouring threads of a warp, a power of two; the first of them has the result.
__device__ __forceinline__ double sum_of_lanes(double value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    value += __shfl_down_sync(kAllLanes, value, distance);
  return value;
}

// Over the block, a multiple of whole warps; scratch: one value per warp. Thread 0 has the result.
__device__ inline double sum_of_block(double value, double* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = sum_of_lanes(value, kWarp);
  __syncthreads();  // scratch may still be read from before
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < warps; ++w) value += scratch[w];
  return value;
}

// Whether this block is the last of `splits` to come here; what the others wrote before is visible
// to it then. Every thread of the block calls it.
__device__ inline bool is_last_block(unsigned* ticket, int splits) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    last =
        atomicInc(ticket, static_cast<unsigned>(splits - 1)) == static_cast<unsigned>(splits - 1);
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// The sum of one term of one channel over all splits, by `lanes` threads of a warp.
__device__ inline double merged(const Merge& merge, int terms, int term, std::int64_t c,
                                std::int64_t channel, int lane, int lanes) {
  double sum = 0;
  if (channel < c)
    for (int split = lane; split < merge.splits; split += lanes)
      sum +=
          __ldcg(&merge.partials[(static_cast<std::int64_t>(split) * terms + term) * c + channel]);
  return sum_of_lanes(sum, lanes);
}

}  // namespace syncnorm::cuda
