// Sums over a thread's values, over a block, and over the blocks of a channel: always in the same
// order, so that every run gives the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/in_flight.cuh"
#include "backend/cuda/device/plans.hpp"

namespace syncnorm::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// Pieces whose terms are summed in the arithmetic type before the sums go on in float64. A multiple
// of every depth.
constexpr int kPiecesPerSum = 48;

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

// Of V values, a power of two, by halves.
template <int V, class A>
__device__ __forceinline__ A sum_of_pack(const A* values) {
  if constexpr (V == 1) return *values;
  if constexpr (V > 1) return sum_of_pack<V / 2>(values) + sum_of_pack<V / 2>(values + V / 2);
}

// Where the values of a block's channels stand: thread = y*lanes + x, where x counts packs of V
// columns. Column i*channel_step + k*stride, k < per_channel, is of channel i.
struct BlockShape {
  int lanes, height;  // threads in x and in y; those left over have no column
  int channels;
  int per_channel, channel_step, stride;
  bool folded;  // every pack is of one channel: columns are counted in packs
};

// The sums of each thread, in shared memory so that they take no registers:
// [term][element][thread], which puts neighbouring threads into different banks. kFolded: known to
// be so for every tensor.
template <int V, int kTerms, int kThreads, bool kFolded>
class ThreadSums {
  // Some more than threads, so that elements of one thread are in different banks too.
  static constexpr int kPitch = kThreads + 8;
  static constexpr int kElements = kFolded ? 1 : V;

 public:
  static constexpr int kSize = kTerms * kElements * kPitch;  // of the memory

  __device__ ThreadSums(double* memory, const BlockShape& shape)
      : memory_(memory), folded_(shape.folded) {}

  // Adds to the thread's own.
  template <class A>
  __device__ __forceinline__ void add(const A (&sums)[kTerms][V], bool first) {
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      if (kFolded || folded_) {
        add(at(t, 0), static_cast<double>(sum_of_pack<V>(sums[t])), first);
      } else {
#pragma unroll
        for (int e = 0; e < kElements; ++e) add(at(t, e), static_cast<double>(sums[t][e]), first);
      }
    }
  }

  // sums[t*channels + i] = term t of channel i, for all threads to read.
  __device__ void fold(const BlockShape& shape, double* sums) {
    const int elements = kFolded || folded_ ? 1 : kElements;
    __syncthreads();
    fold_height(shape, elements);
    __syncthreads();
    fold_columns(shape, elements, sums);
    __syncthreads();
  }

 private:
  __device__ __forceinline__ double* at(int term, int element) {
    return memory_ + (term * kElements + element) * kPitch + threadIdx.x;
  }
  __device__ __forceinline__ static void add(double* to, double value, bool first) {
    *to = first ? value : *to + value;
  }

  // Every column, over y, into y = 0.
  __device__ __forceinline__ void fold_height(const BlockShape& shape, int elements) {
    if (shape.height == 1) return;
    const int columns = elements * shape.lanes;
    for (int i = static_cast<int>(threadIdx.x); i < kTerms * columns;
         i += static_cast<int>(blockDim.x)) {
      const int row = i / shape.lanes, x = i % shape.lanes;
      const int element = row % elements, term = row / elements;
      double* const column = memory_ + (term * kElements + element) * kPitch + x;
      double sum = column[0];
#pragma unroll 8
      for (int y = 1; y < shape.height; ++y) sum += column[y * shape.lanes];
      column[0] = sum;
    }
  }

  // Some neighbouring threads of a warp for each term of each channel, in rounds in which all
  // threads take part.
  __device__ __forceinline__ void fold_columns(const BlockShape& shape, int elements,
                                               double* sums) {
    const int wanted = kTerms * shape.channels;
    const int threads = static_cast<int>(blockDim.x);
    int team = kWarp;
    while (team > 1 && (team * wanted > threads || team / 2 >= shape.per_channel)) team /= 2;
    const int member = static_cast<int>(threadIdx.x) % team;
    for (int round = 0; round < wanted; round += threads / team) {
      const int i = round + static_cast<int>(threadIdx.x) / team;
      double sum = 0;
      if (i < wanted) {
        const int term = i / shape.channels;
        const int first = i % shape.channels * shape.channel_step;
        for (int k = member; k < shape.per_channel; k += team) {
          const int column = first + k * shape.stride;
          sum += memory_[(term * kElements + column % elements) * kPitch + column / elements];
        }
      }
      sum = sum_of_lanes(sum, team);
      if (member == 0 && i < wanted) sums[i] = sum;
    }
  }

  double* memory_;
  bool folded_;
};

// Whether this block is the last of `splits` to come here; what the others wrote before is visible
// to it then. Every thread of the block calls it.
__device__ inline bool is_last_block(unsigned* ticket, int splits) {
  __shared__ bool last;
  __syncthreads();  // all of this block have written
  if (threadIdx.x == 0) {
    const auto others = static_cast<unsigned>(splits - 1);
    __threadfence();
    last = atomicInc(ticket, others) == others;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// sums[i] = what all splits have left for it: partials[split][i], i < count. Many loads under way
// at a time, added in the order of the splits. memory: a value for each thread.
__device__ inline void merge_splits(const double* partials, int splits, int count, double* memory,
                                    double* sums) {
  const int threads = static_cast<int>(blockDim.x);
  const int ways = merge_ways(count, threads);
  for (int unit = static_cast<int>(threadIdx.x); unit < ways * count; unit += threads) {
    const double* const own = partials + unit % count;
    double sum = 0;
    for (int split = unit / count; split < splits; split += ways * kMergeLoads) {
      InFlight<double> values[kMergeLoads];
#pragma unroll
      for (int u = 0; u < kMergeLoads; ++u)
        if (split + u * ways < splits)
          values[u].load_shared(own + static_cast<std::int64_t>(split + u * ways) * count);
#pragma unroll
      for (int u = 0; u < kMergeLoads; ++u)
        if (split + u * ways < splits) sum += values[u].get();
    }
    memory[unit] = sum;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    double sum = memory[i];
#pragma unroll 8
    for (int way = 1; way < ways; ++way) sum += memory[way * count + i];
    sums[i] = sum;
  }
  __syncthreads();
}

}  // namespace syncnorm::cuda
