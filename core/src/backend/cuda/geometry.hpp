// How a tensor is divided among blocks: as rows or as planes, in packs or value by value.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "backend/cuda/device/plans.hpp"
#include "backend/cuda/device_limits.hpp"
#include "backend/cuda/tuning/tuning.hpp"
#include "plan/problem.hpp"

namespace syncnorm::cuda {

struct Geometry {
  bool by_rows;
  int pack;  // values per access: as many as 16 bytes hold, or one
  RowPlan rows;
  PlanePlan planes;

  int threads() const { return by_rows ? rows.threads : planes.threads; }
  unsigned blocks() const;
  // Sets of blocks that share channels.
  std::int64_t groups() const { return by_rows ? rows.tiles : planes.view.c; }
  // Of one thread, at most.
  std::int64_t pieces() const;
  int splits() const { return by_rows ? rows.splits : planes.splits; }
};

// Among about `blocks` blocks, or more where there are more groups. The problem has values.
// aligned: all tensors of the pass begin at multiples of 16 bytes.
Geometry divide(const Problem& problem, bool aligned, int threads, std::int64_t blocks);

// For one pass.
Geometry divide(const Problem& problem, bool aligned, const Tuning& tuning,
                const DeviceLimits& limits);

bool is_aligned(std::initializer_list<const void*> pointers);

}  // namespace syncnorm::cuda
