// How the CUDA backend divides its scratch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cuda/device/plans.hpp"
#include "plan/problem.hpp"
#include "plan/support_table.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// One ticket per group of channels that blocks share.
constexpr std::int64_t kTickets = SYNCNORM_CONTROL_SIZE / sizeof(unsigned);
constexpr std::int64_t kMaxTerms = 3;

// Into how many parts a group of channels may be divided, so that one block soon merges their sums:
// more where it has fewer channels.
constexpr std::int64_t kMaxSplits = 128;
constexpr std::int64_t kMaxSplitsOfFew = 512;
constexpr std::int64_t kManyChannels = 32;
// Bounds for the workspace, whatever the device: items that leave partial sums, and the bytes of x
// that one has at least.
constexpr std::int64_t kMaxSplitItems = 2048;
constexpr std::int64_t kLeastItemBytes = 8192;

// The items that a tensor may be divided into for its blocks to share channels.
inline std::int64_t max_split_items(const Problem& problem) {
  const std::int64_t bytes =
      problem.size() * static_cast<std::int64_t>(support_of(problem.dtype).size);
  return std::min(kMaxSplitItems, bytes / kLeastItemBytes);
}

// Into how many parts each of `groups` of channels may be divided.
inline std::int64_t max_splits(const Problem& problem, std::int64_t groups) {
  static_assert(kMaxSplitItems <= kTickets);  // with more groups no channel is shared
  return std::max<std::int64_t>(1, max_split_items(problem) / std::max<std::int64_t>(groups, 1));
}

class Scratch {
 public:
  explicit Scratch(void* memory)
      : tickets(static_cast<unsigned*>(memory)),
        partials(reinterpret_cast<double*>(tickets == nullptr ? nullptr : tickets + kTickets)) {}

  static std::size_t size(const Problem& problem) {
    const std::int64_t channels = std::min<std::int64_t>(problem.c, kMaxTileChannels);
    const std::int64_t values = kMaxTerms * channels * max_split_items(problem);
    return SYNCNORM_CONTROL_SIZE + static_cast<std::size_t>(values) * sizeof(double);
  }

  unsigned* tickets;  // kTickets of them
  double* partials;   // [group][split][terms*channels of the group]
};

}  // namespace syncnorm::cuda
