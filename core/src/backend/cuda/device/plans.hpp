// How a pass over a tensor is divided among blocks and threads. Plain data: made on the host, read
// by the kernels.
#pragma once

#include <cstdint>

namespace syncnorm::cuda {

constexpr int kWarp = 32;
constexpr int kPackBytes = 16;  // the widest access to memory

// A tensor as rows of `width` values whose channel depends on the column alone: a sample of
// channels first, or one or more positions of channels last. Rows begin at whole packs; the last
// one may be cut short.
struct RowView {
  std::int64_t size;  // values in all
  std::int64_t width;
  std::int64_t channels;  // C
  int rows;
  int span;       // consecutive columns of one channel: S, or 1 in channels last
  int positions;  // positions of a mask in one row
};

// A pass is divided into items: a group of channels, a tile, and a share of its rows, a split. Item
// number = split*tiles + tile. The grid is as large as the device holds at a time, or smaller; a
// block works on every gridDim-th item.
struct RowPlan {
  RowView view;
  int rows_per_split;
  int tile_width;     // columns: whole packs, and whole channels
  int tile_channels;  // of every tile but the last, which may have fewer
  int tiles;
  int splits;
  int threads;
};

// Channels first, one channel at a time: N planes of S values, each seen as `slots` packs of which
// the first and the last may be partly outside, where planes do not begin at whole packs.
struct PlaneView {
  std::int64_t n, c, s;
  int slots;  // packs that one plane may touch
};

// The group of an item is one channel. Item number = channel*splits + split.
struct PlanePlan {
  PlaneView view;
  int slots_per_split;
  int splits;
  int threads;
};

constexpr std::int64_t items_of(const RowPlan& plan) {
  return static_cast<std::int64_t>(plan.tiles) * plan.splits;
}
constexpr std::int64_t items_of(const PlanePlan& plan) { return plan.view.c * plan.splits; }

// Channels of a tile at most.
constexpr int kMaxTileChannels = 64;

// Partial sums on their way from the blocks that share channels to the last of them.
struct Merge {
  double* partials;   // [group][split][terms*channels of the group]
  unsigned* tickets;  // one per group; zero, and left zero
};

// Splits that one thread of a merge loads before it adds them.
constexpr int kMergeLoads = 12;
// Threads of a merge that share one sum, at most.
constexpr int kMergeWays = 32;

// Among how many threads the splits of each of `sums` sums are divided.
constexpr int merge_ways(int sums, int threads) {
  const int ways = threads / sums;
  return ways < 1 ? 1 : ways > kMergeWays ? kMergeWays : ways;
}

}  // namespace syncnorm::cuda
