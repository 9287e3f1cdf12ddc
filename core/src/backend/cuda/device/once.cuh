// Both passes in one kernel that reads its tensors once: every block keeps its part in shared
// memory while all blocks wait for the sums. Launched as a cooperative grid.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/planes.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/device/shared_memory.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

// The pieces of a block, in the order in which its threads walk.
template <class T, int V, int kCount>
class Chip {
 public:
  __device__ explicit Chip(Pack<T, V>* memory) : next_(memory + threadIdx.x) {}

  __device__ __forceinline__ void put(const KeptPacks<T, V, kCount>& kept) {
#pragma unroll
    for (int k = 0; k < kCount; ++k, next_ += blockDim.x) *next_ = kept.packs[k];
  }
  __device__ __forceinline__ KeptPacks<T, V, kCount> take() {
    KeptPacks<T, V, kCount> kept;
#pragma unroll
    for (int k = 0; k < kCount; ++k, next_ += blockDim.x) kept.packs[k] = *next_;
    return kept;
  }

 private:
  Pack<T, V>* next_;
};

// The first pass's source: what it loads stays on the chip.
template <class Terms, int V>
struct Keeping : Terms {
  using Memory = Chip<typename Terms::T, V, Terms::Kept::kCount>;
  using Inputs = typename Terms::Inputs;
  Memory* chip;

  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece) const {
    Terms::load(inputs, piece);
    chip->put(Terms::keep(inputs));
  }
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece) const {
    Terms::load_part(inputs, piece);
    chip->put(Terms::keep(inputs));
  }
};

// The second pass's source.
template <class Map, int V, class Memory>
struct Restoring {
  using Inputs = typename Map::Inputs;
  const Map& map;
  Memory* chip;

  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece) const {
    map.restore(inputs, chip->take(), piece);
  }
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece) const {
    load(inputs, piece);
  }
};

// Dynamic shared memory of the pieces: `pieces` of every thread.
template <class Terms, int V>
__host__ __device__ constexpr std::size_t chip_bytes(std::int64_t pieces, int threads) {
  const auto count = static_cast<std::size_t>(pieces) * static_cast<std::size_t>(threads);
  return shared_bytes(count * Terms::Kept::kCount, V * sizeof(typename Terms::T));
}

// Between the passes: every warp of the grid adds up the partial sums of some channels.
template <class Terms>
__device__ void finish_sums(const Terms& terms, std::int64_t c, const Merge& merge) {
  cooperative_groups::this_grid().sync();
  const auto lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * blockDim.x / kWarp;
  const std::int64_t first =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  for (std::int64_t channel = first; channel < c; channel += warps) {
    double sums[Terms::kTerms];
    for (int t = 0; t < Terms::kTerms; ++t)
      sums[t] = merged(merge, Terms::kTerms, t, c, channel, lane, kWarp);
    if (lane == 0) terms.finish(channel, sums, terms.prepare(channel));
  }
  cooperative_groups::this_grid().sync();
}

template <int kUnroll, int V, class Map, class Memory, class Walker, class Lane>
__device__ __forceinline__ void map_chip(const Map& map, Memory chip, Walker walker,
                                         const Lane& lane) {
  const Restoring<Map, V, Memory> source{map, &chip};
  for_each_piece<kUnroll, V>(
      source, walker, walker.left(),
      [&](const auto& inputs, const Piece& piece, auto) { map.apply(inputs, piece, lane, true); });
}

template <class Terms, class Map, int V, int kUnroll>
__device__ __forceinline__ void once_rows(const Terms& terms, const Map& map, const RowPlan& plan,
                                          const Merge& merge) {
  using Memory = typename Keeping<Terms, V>::Memory;
  constexpr int kTerms = Terms::kTerms;
  SharedMemory shared;
  const auto channels = static_cast<std::size_t>(plan.tile_channels);
  auto* before = shared.take<typename Terms::Constant>(channels);
  auto* after = shared.take<typename Map::Constant>(channels);
  auto* columns = shared.take<double>(blockDim.x * V * kTerms);
  auto* sums = shared.take<double>(channels * kTerms);
  auto* memory = shared.take<Pack<typename Terms::T, V>>(0);  // the rest
  const RowTile<V> tile(plan, blockIdx.x);
  const auto walker = tile.template walker<Direction::kForward>(plan.view);
  {
    Memory chip(memory);
    const Keeping<Terms, V> keeping{terms, &chip};
    const auto lane = prepare_lane(tile, before, [&](std::int64_t i) { return terms.prepare(i); });
    RowTotals<V> totals(tile, columns, kTerms);
    accumulate<kUnroll, V>(keeping, walker, lane, totals);
    fold_columns<V, kTerms>(tile, columns, sums);
    leave_partials<V, kTerms>(tile, plan.view.channels, merge, sums);
  }
  finish_sums(terms, plan.view.channels, merge);
  finish_channels(map, true);
  const auto lane = prepare_lane(tile, after, [&](std::int64_t i) { return map.prepare(i); });
  map_chip<kUnroll, V>(map, Memory(memory), walker, lane);
}

template <class Terms, class Map, int V, int kUnroll>
__device__ __forceinline__ void once_planes(const Terms& terms, const Map& map,
                                            const PlanePlan& plan, const Merge& merge) {
  using Memory = typename Keeping<Terms, V>::Memory;
  constexpr int kTerms = Terms::kTerms;
  __shared__ typename Terms::Constant before;
  __shared__ typename Map::Constant after;
  __shared__ double scratch[kWarp];
  SharedMemory shared;
  auto* memory = shared.take<Pack<typename Terms::T, V>>(0);
  const std::int64_t channel = blockIdx.x / static_cast<unsigned>(plan.splits);
  const int split = static_cast<int>(blockIdx.x % static_cast<unsigned>(plan.splits));
  const auto walker = plane_walker<V, Direction::kForward>(plan, channel, split);
  {
    Memory chip(memory);
    const Keeping<Terms, V> keeping{terms, &chip};
    const PlaneLane<typename Terms::Constant> lane{
        prepare_once(&before, [&] { return terms.prepare(channel); })};
    PlaneTotals<kTerms> totals;
    accumulate<kUnroll, V>(keeping, walker, lane, totals);
    for (int t = 0; t < kTerms; ++t)
      leave_partial(merge, split, kTerms, t, plan.view.c, channel,
                    sum_of_block(totals.sums[t], scratch));
  }
  finish_sums(terms, plan.view.c, merge);
  finish_channels(map, true);
  const PlaneLane<typename Map::Constant> lane{
      prepare_once(&after, [&] { return map.prepare(channel); })};
  map_chip<kUnroll, V>(map, Memory(memory), walker, lane);
}

}  // namespace syncnorm::cuda
