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
  std::int64_t rows;
  std::int64_t span;       // consecutive columns of one channel: S, or 1 in channels last
  std::int64_t channels;   // C
  std::int64_t positions;  // positions of a mask in one row
};

// Block number = split*tiles + tile.
struct RowPlan {
  RowView view;
  std::int64_t rows_per_split;
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
  std::int64_t slots;  // packs that one plane may touch
};

// Block number = channel*splits + split.
struct PlanePlan {
  PlaneView view;
  std::int64_t slots_per_split;
  int splits;
  int threads;
};

// Partial sums of channels on their way from the blocks that share a channel to the last of them.
struct Merge {
  double* partials;   // [splits][terms][C]
  unsigned* tickets;  // one per set of blocks that share channels; zero, and left zero
  int splits;
};

}  // namespace syncnorm::cuda
