// What a pass may be tuned by. The numbers stand in one file per operation.
#pragma once

#include <cstdint>

namespace syncnorm::cuda {

struct Tuning {
  int threads;               // per block, a multiple of 32
  int blocks_per_sm;         // that a pass should have, all in all
  std::int64_t block_bytes;  // of x that a block should have at least
};

// Bounds for the workspace, whatever the device: of the blocks that share channels, and of the
// channels in one block.
constexpr std::int64_t kMaxSplitBlocks = 2048;
constexpr std::int64_t kMaxTileChannels = 256;
constexpr std::int64_t kLeastBlockBytes = 8192;

}  // namespace syncnorm::cuda
