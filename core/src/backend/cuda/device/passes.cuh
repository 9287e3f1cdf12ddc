// The two kinds of pass over a tensor: sums per channel, and a map of every value. Both are written
// once for rows and planes; `Tile` is a block's part of either.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

// Programmatic dependent launch: a kernel launched with launch.cuh's `follows` begins while the one
// before it still runs, and may read what that one only reads until it waits for its results.
__device__ __forceinline__ void let_next_kernel_begin() {
#if defined(SYNCNORM_SIMT) || __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ __forceinline__ void wait_for_kernel_before() {
#if defined(SYNCNORM_SIMT) || __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Sums per channel: the first pass. What the first loads of a block bring is on its way while the
// constants of its channels are prepared.
template <int kThreads, int kDepth, class Tile, int V, class Terms>
__device__ __forceinline__ void sum_tensor(const Terms& terms, const typename Tile::Plan& plan,
                                           const Merge& merge) {
  using A = typename Terms::A;
  constexpr int kTerms = Terms::kTerms;
  static_assert(kPiecesPerSum % kDepth == 0);
  using Sums = ThreadSums<V, kTerms, kThreads, Tile::kFolded>;
  __shared__ typename Terms::Constant constants[Tile::kMaxChannels];
  __shared__ double memory[Sums::kSize];
  __shared__ double sums[kTerms * Tile::kMaxChannels];
  let_next_kernel_begin();
  const auto items = static_cast<unsigned>(items_of(plan));
  for (unsigned item = blockIdx.x; item < items; item += gridDim.x) {
    const Tile tile(plan, item);
    const auto positions = tile.positions();
    auto pieces = pipeline<kDepth>(terms, tile.template walker<Direction::kForward>(), positions);
    terms.prepare(tile.first_channel, tile.channels, constants);
    __syncthreads();
    const auto lane = tile.lane(constants);
    const BlockShape shape = tile.shape();
    Sums of_thread(memory, shape);
    bool first = true;
    do {
      A partial[kTerms][V] = {};
      const int count = pieces.left() < kPiecesPerSum ? pieces.left() : kPiecesPerSum;
      pieces.run(count, [&](const auto& inputs, const Piece& piece, auto whole) {
        if (whole || is_whole<V>(piece))
          terms.add(inputs, piece, std::true_type{}, lane, partial);
        else
          terms.add(inputs, piece, std::false_type{}, lane, partial);
      });
      of_thread.add(partial, first);
      first = false;
    } while (pieces.left() > 0);
    of_thread.fold(shape, sums);
    const int count = kTerms * tile.channels;
    if (plan.splits > 1) {
      double* const partials = merge.partials + kTerms * tile.first_partial;
      for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        partials[tile.split * count + i] = sums[i];
      if (!is_last_block(&merge.tickets[tile.group], plan.splits)) continue;
      merge_splits(partials, plan.splits, count, memory, sums);
    }
    for (int i = static_cast<int>(threadIdx.x); i < tile.channels;
         i += static_cast<int>(blockDim.x)) {
      double of_channel[kTerms];
#pragma unroll
      for (int t = 0; t < kTerms; ++t) of_channel[t] = sums[t * tile.channels + i];
      terms.finish(tile.first_channel + i, of_channel, constants[i]);
    }
    __syncthreads();  // the next item takes the same memory
  }
}

// The second pass: value by value, from the tensor's end to its beginning, where the first pass has
// left it in the cache; then the work per channel.
template <int kDepth, class Tile, class Map>
__device__ __forceinline__ void map_tensor(const Map& map, const typename Tile::Plan& plan) {
  __shared__ typename Map::Constant constants[Tile::kMaxChannels];
  const auto items = static_cast<unsigned>(items_of(plan));
  bool agree = true;
  for (unsigned item = blockIdx.x; item < items; item += gridDim.x) {
    const Tile tile(plan, items - 1 - item);
    const auto positions = tile.positions();
    auto pieces = pipeline<kDepth>(map, tile.template walker<Direction::kBackward>(), positions);
    if (item == blockIdx.x) wait_for_kernel_before();
    const auto agreement = agreement_of(map.channels);
    for (int i = static_cast<int>(threadIdx.x); i < tile.channels;
         i += static_cast<int>(blockDim.x))
      constants[i] = map.prepare(tile.first_channel + i);
    __syncthreads();
    const auto lane = tile.lane(constants);
    agree = agreement.holds();
    pieces.run(pieces.left(), [&](const auto& inputs, const Piece& piece, auto) {
      map.apply(inputs, piece, lane, agree);
    });
    __syncthreads();  // the next item takes the same memory
  }
  map.finish(agree);
}

}  // namespace syncnorm::cuda
