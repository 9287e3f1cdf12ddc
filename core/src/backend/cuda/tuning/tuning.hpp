// What a pass is tuned by. The numbers stand in one file per operation.
#pragma once

namespace syncnorm::cuda {

struct Tuning {
  int threads;        // of a block at most, a multiple of 32
  int blocks_per_sm;  // that the registers leave room for, at least
  int depth;          // pieces of each tensor that a thread has under way
};

// Of packs of V values; more where each is narrow.
template <int V>
constexpr int depth_of(const Tuning& tuning) {
  return V == 1 ? 2 * tuning.depth : tuning.depth;
}

}  // namespace syncnorm::cuda
