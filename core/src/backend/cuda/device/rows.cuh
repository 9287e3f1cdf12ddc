// A block's part of a tensor that is seen as rows: a tile of columns and a range of rows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/device/walk.cuh"

namespace syncnorm::cuda {

// Where the V values of a thread's packs stand among the positions of a mask, from the piece's.
template <int V>
struct RowPositions {
  int of[V];
  bool same;
  __device__ __forceinline__ int operator[](int e) const { return of[e]; }
  __device__ __forceinline__ PositionOrder order() const {
    return same ? PositionOrder::kSame : PositionOrder::kAny;
  }
};

// A constant for each of the V values.
template <class Constant, int V>
struct RowLane {
  Constant constants[V];
  __device__ __forceinline__ const Constant& constant(int e) const { return constants[e]; }
};

template <int V>
class RowTile {
 public:
  using Plan = RowPlan;
  static constexpr int kMaxChannels = kMaxTileChannels;
  static constexpr bool kFolded = false;  // by the tensor: BlockShape::folded

  std::int64_t first_channel;
  std::int64_t first_partial;  // of one term, where blocks leave partial sums
  int group, split;
  int channels;

  __device__ RowTile(const RowPlan& plan, unsigned item)
      : group(static_cast<int>(item % static_cast<unsigned>(plan.tiles))),
        split(static_cast<int>(item / static_cast<unsigned>(plan.tiles))),
        view_(plan.view),
        lanes_(plan.tile_width / V),
        height_(static_cast<int>(blockDim.x) / lanes_) {
    first_channel = static_cast<std::int64_t>(group) * plan.tile_channels;
    channels = static_cast<int>(smaller(plan.tile_channels, view_.channels - first_channel));
    first_column_ = static_cast<std::int64_t>(group) * plan.tile_width;
    first_partial = first_channel * plan.splits;
    columns_ = static_cast<int>(smaller(plan.tile_width, view_.width - first_column_));
    first_row_ = split * plan.rows_per_split;
    end_row_ =
        static_cast<int>(smaller(std::int64_t{first_row_} + plan.rows_per_split, view_.rows));
    y_ = static_cast<int>(threadIdx.x) / lanes_;
    column_ = static_cast<int>(threadIdx.x) % lanes_ * V;
    active_ = y_ < height_ && column_ < columns_;
  }

  template <Direction kDirection>
  __device__ RowWalker<V, kDirection> walker() const {
    return {view_, first_column_ + column_, first_row_ + y_, active_ ? end_row_ : 0, height_};
  }

  __device__ RowPositions<V> positions() const {
    RowPositions<V> positions;
    positions.same = view_.positions == 1;
    each_value(
        [&](int e, int quotient, int rest) { positions.of[e] = view_.span > 1 ? rest : quotient; });
    return positions;
  }

  // The thread's own of the constants of all channels.
  template <class Constant>
  __device__ RowLane<Constant, V> lane(const Constant* constants) const {
    RowLane<Constant, V> lane;
    each_value([&](int e, int quotient, int rest) {
      lane.constants[e] = constants[view_.span > 1 ? quotient : rest];
    });
    return lane;
  }

  __device__ BlockShape shape() const {
    const int per_channel = columns_ / channels;
    if (view_.span == 1) return {lanes_, height_, channels, per_channel, 1, channels, false};
    const bool folded = view_.span % V == 0;
    const int step = folded ? per_channel / V : per_channel;
    return {lanes_, height_, channels, step, step, 1, folded};
  }

 private:
  static __device__ std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

  // Calls visit(e, quotient, rest) for each of the thread's columns, divided by the columns of one
  // channel, or in channels last by the channels.
  template <class Visit>
  __device__ __forceinline__ void each_value(Visit&& visit) const {
    const int divisor = view_.span > 1 ? view_.span : channels;
    const int column = active_ ? column_ : 0;
    int quotient = column / divisor, rest = column % divisor;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      visit(e, quotient, rest);
      if (++rest == divisor) rest = 0, ++quotient;
    }
  }

  const RowView& view_;
  int lanes_, height_;
  std::int64_t first_column_;
  int columns_;  // of the tile
  int first_row_, end_row_;
  int y_, column_;  // of the thread; its column from the tile's first
  bool active_;
};

}  // namespace syncnorm::cuda
