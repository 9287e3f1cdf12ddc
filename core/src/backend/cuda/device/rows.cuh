// Both kinds of pass over rows: a block works on a tile of columns and a range of rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/shared_memory.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

// A block's part, and a thread's: thread = y*lanes + x, where x counts packs of columns and y rows.
// Threads that are left over have no column.
template <int V>
struct RowTile {
  std::int64_t first_column, first_channel;
  std::int64_t first_row, end_row;
  int tile, split;
  int columns, channels;  // of the tile
  int span;               // consecutive columns of one channel
  int lanes, height;      // threads in x and in y
  int column, y;          // of the thread; its column from the tile's first
  bool active;

  __device__ RowTile(const RowPlan& plan, unsigned block) {
    const RowView& view = plan.view;
    tile = static_cast<int>(block % static_cast<unsigned>(plan.tiles));
    split = static_cast<int>(block / static_cast<unsigned>(plan.tiles));
    first_column = static_cast<std::int64_t>(tile) * plan.tile_width;
    first_channel = static_cast<std::int64_t>(tile) * plan.tile_channels;
    columns = static_cast<int>(smaller(plan.tile_width, view.width - first_column));
    channels = static_cast<int>(smaller(plan.tile_channels, view.channels - first_channel));
    span = static_cast<int>(view.span);
    first_row = split * plan.rows_per_split;
    end_row = smaller(first_row + plan.rows_per_split, view.rows);
    lanes = plan.tile_width / V;
    height = static_cast<int>(blockDim.x) / lanes;
    y = static_cast<int>(threadIdx.x) / lanes;
    column = static_cast<int>(threadIdx.x) % lanes * V;
    active = y < height && column < columns;
  }

  // Of the tile's columns and channels, counted from its first.
  __device__ int channel_of(int col) const { return span == 1 ? col % channels : col / span; }
  __device__ int columns_per_channel() const { return columns / channels; }
  __device__ int column_of(int channel, int k) const {
    return span == 1 ? channel + k * channels : channel * span + k;
  }

  template <Direction kDirection>
  __device__ RowWalker<V, kDirection> walker(const RowView& view) const {
    return {view, first_column + column, first_row + y, active ? end_row : 0, height};
  }

  static __device__ std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
};

// constants[i] = prepare(channel i of the tile); then every thread's own.
template <int V, class Constant, class Prepare>
__device__ RowLane<Constant, V> prepare_lane(const RowTile<V>& tile, Constant* constants,
                                             Prepare&& prepare) {
  for (int i = static_cast<int>(threadIdx.x); i < tile.channels; i += static_cast<int>(blockDim.x))
    constants[i] = prepare(tile.first_channel + i);
  __syncthreads();
  const int column = tile.active ? tile.column : 0;
  RowLane<Constant, V> lane;
  lane.column = column;
  lane.span = tile.span;
  lane.channels = tile.channels;
  lane.joined = tile.span == 1 && tile.columns > tile.channels;
#pragma unroll
  for (int e = 0; e < V; ++e) lane.constants[e] = constants[tile.channel_of(column + e)];
  return lane;
}

// Some neighbouring threads of a warp for each channel of a tile, channel by channel in rounds in
// which all threads take part.
struct Teams {
  int size;   // threads of one team, a power of two
  int count;  // teams of the block
  int member, team;

  __device__ explicit Teams(int channels) : size(kWarp) {
    while (size > 1 && size * channels > static_cast<int>(blockDim.x)) size /= 2;
    count = static_cast<int>(blockDim.x) / size;
    member = static_cast<int>(threadIdx.x) % size;
    team = static_cast<int>(threadIdx.x) / size;
  }
};

// Sums per term and column, each thread's own: columns[t][y*width + column].
template <int V>
class RowTotals {
 public:
  __device__ RowTotals(const RowTile<V>& tile, double* columns, int terms)
      : stride_(static_cast<int>(blockDim.x) * V),
        own_(columns + tile.y * tile.lanes * V + tile.column) {
    if (tile.y >= tile.height) return;  // has no pieces either
    for (int t = 0; t < terms; ++t)
#pragma unroll
      for (int e = 0; e < V; ++e) own_[t * stride_ + e] = 0;
  }
  __device__ __forceinline__ void add(int t, int e, double sum) { own_[t * stride_ + e] += sum; }

 private:
  int stride_;
  double* own_;
};

// Adds up the threads' columns: sums[t*tile.channels + i] = term t of channel i of the tile.
template <int V, int kTerms>
__device__ void fold_columns(const RowTile<V>& tile, const double* columns, double* sums) {
  const Teams teams(tile.channels);
  const int width = tile.lanes * V;
  const int per_row = tile.columns_per_channel();
  __syncthreads();
  for (int t = 0; t < kTerms; ++t, columns += blockDim.x * V)
    for (int round = 0; round < tile.channels; round += teams.count) {
      const int channel = round + teams.team;
      double sum = 0;
      if (channel < tile.channels)
        for (int i = teams.member; i < per_row * tile.height; i += teams.size)
          sum += columns[i / per_row * width + tile.column_of(channel, i % per_row)];
      sum = sum_of_lanes(sum, teams.size);
      if (teams.member == 0 && channel < tile.channels) sums[t * tile.channels + channel] = sum;
    }
  __syncthreads();
}

// sums as above, over all splits.
template <int V, int kTerms>
__device__ void merge_splits(const RowTile<V>& tile, std::int64_t c, const Merge& merge,
                             double* sums) {
  const Teams teams(tile.channels);
  for (int round = 0; round < tile.channels; round += teams.count) {
    const int channel = round + teams.team;
    const bool valid = channel < tile.channels;
    for (int t = 0; t < kTerms; ++t) {
      const double sum = merged(merge, kTerms, t, c, valid ? tile.first_channel + channel : c,
                                teams.member, teams.size);
      if (teams.member == 0 && valid) sums[t * tile.channels + channel] = sum;
    }
  }
  __syncthreads();
}

// Leaves the sums of this block for the last block of the tile.
template <int V, int kTerms>
__device__ void leave_partials(const RowTile<V>& tile, std::int64_t c, const Merge& merge,
                               const double* sums) {
  for (int i = static_cast<int>(threadIdx.x); i < tile.channels * kTerms;
       i += static_cast<int>(blockDim.x)) {
    const std::int64_t row = static_cast<std::int64_t>(tile.split) * kTerms + i / tile.channels;
    merge.partials[row * c + tile.first_channel + i % tile.channels] = sums[i];
  }
}

template <class Constant>
__host__ __device__ constexpr std::size_t constants_bytes(int tile_channels) {
  return shared_bytes(static_cast<std::size_t>(tile_channels), sizeof(Constant));
}

// Dynamic shared memory of sum_rows.
template <class Terms, int V>
__host__ __device__ constexpr std::size_t row_sums_bytes(int tile_channels, int threads) {
  return constants_bytes<typename Terms::Constant>(tile_channels) +
         shared_bytes(static_cast<std::size_t>(threads) * V * Terms::kTerms, sizeof(double)) +
         shared_bytes(static_cast<std::size_t>(tile_channels) * Terms::kTerms, sizeof(double));
}

// Sums per channel: the first pass.
template <class Terms, int V, int kUnroll>
__device__ __forceinline__ void sum_rows(const Terms& terms, const RowPlan& plan,
                                         const Merge& merge) {
  using Constant = typename Terms::Constant;
  constexpr int kTerms = Terms::kTerms;
  SharedMemory shared;
  auto* constants = shared.take<Constant>(static_cast<std::size_t>(plan.tile_channels));
  auto* columns = shared.take<double>(blockDim.x * V * kTerms);
  auto* sums = shared.take<double>(static_cast<std::size_t>(plan.tile_channels) * kTerms);
  const RowTile<V> tile(plan, blockIdx.x);
  const std::int64_t c = plan.view.channels;
  const auto lane = prepare_lane(tile, constants, [&](std::int64_t i) { return terms.prepare(i); });
  RowTotals<V> totals(tile, columns, kTerms);
  accumulate<kUnroll, V>(terms, tile.template walker<Direction::kForward>(plan.view), lane, totals);
  fold_columns<V, kTerms>(tile, columns, sums);
  if (plan.splits > 1) {
    leave_partials<V, kTerms>(tile, c, merge, sums);
    if (!is_last_block(&merge.tickets[tile.tile], plan.splits)) return;
    merge_splits<V, kTerms>(tile, c, merge, sums);
  }
  for (int i = static_cast<int>(threadIdx.x); i < tile.channels;
       i += static_cast<int>(blockDim.x)) {
    double of_channel[kTerms];
    for (int t = 0; t < kTerms; ++t) of_channel[t] = sums[t * tile.channels + i];
    terms.finish(tile.first_channel + i, of_channel, constants[i]);
  }
}

// The second pass: the work per channel, then value by value, from the tensor's end to its
// beginning, where the first pass has left it in the cache.
template <class Map, int V, int kUnroll>
__device__ __forceinline__ void map_rows(const Map& map, const RowPlan& plan) {
  const bool agree = ranks_agree(map.channels);
  finish_channels(map, agree);
  using Constant = typename Map::Constant;
  SharedMemory shared;
  auto* constants = shared.take<Constant>(static_cast<std::size_t>(plan.tile_channels));
  const RowTile<V> tile(plan, gridDim.x - 1 - blockIdx.x);
  const auto lane = prepare_lane(tile, constants, [&](std::int64_t i) { return map.prepare(i); });
  auto walker = tile.template walker<Direction::kBackward>(plan.view);
  for_each_piece<kUnroll, V>(
      map, walker, walker.left(),
      [&](const auto& inputs, const Piece& piece, auto) { map.apply(inputs, piece, lane, agree); });
}

}  // namespace syncnorm::cuda
