// How the CUDA backend divides its scratch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cuda/tuning/tuning.hpp"
#include "plan/problem.hpp"
#include "plan/support_table.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// One ticket per set of blocks that share channels; with more sets no channel is shared.
constexpr std::int64_t kTickets = SYNCNORM_CONTROL_SIZE / sizeof(unsigned);
constexpr std::int64_t kMaxTerms = 3;

// The blocks that a tensor may be divided into where `groups` of them are needed anyway.
inline std::int64_t max_splits(const Problem& problem, std::int64_t groups) {
  if (groups > kTickets) return 1;
  const std::int64_t bytes =
      problem.size() * static_cast<std::int64_t>(support_of(problem.dtype).size);
  const std::int64_t blocks = std::min(kMaxSplitBlocks, bytes / kLeastBlockBytes);
  return std::max<std::int64_t>(1, blocks / std::max<std::int64_t>(groups, 1));
}

class Scratch {
 public:
  explicit Scratch(void* memory)
      : tickets(static_cast<unsigned*>(memory)),
        partials(reinterpret_cast<double*>(tickets == nullptr ? nullptr : tickets + kTickets)) {}

  static std::size_t size(const Problem& problem) {
    const std::int64_t values = kMaxTerms * problem.c * channel_splits(problem);
    return SYNCNORM_CONTROL_SIZE + static_cast<std::size_t>(values) * sizeof(double);
  }

  unsigned* tickets;  // kTickets of them
  double* partials;   // [splits][terms][C]

 private:
  static std::int64_t channel_splits(const Problem& problem) {
    return max_splits(problem, divide_up(problem.c, kMaxTileChannels));
  }
};

}  // namespace syncnorm::cuda
