// How a tensor is divided among blocks: as rows or as planes, in packs or value by value.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "backend/cuda/device/plans.hpp"
#include "plan/problem.hpp"

namespace syncnorm::cuda {

// How a tensor is seen by a pass.
struct View {
  bool by_rows;
  int pack;  // values per access: as many as 16 bytes hold, or one
};

// What a plan has to suit.
struct PassLimits {
  int threads;        // of a block, at most
  std::int64_t wave;  // blocks that are on the device at a time
  bool merges;        // blocks that share channels leave partial sums
};

// aligned: all tensors of the pass begin at multiples of 16 bytes. The problem has values.
View view_of(const Problem& problem, bool aligned, int threads);

RowPlan row_plan(const Problem& problem, int pack, const PassLimits& pass);
PlanePlan plane_plan(const Problem& problem, int pack, const PassLimits& pass);

bool is_aligned(std::initializer_list<const void*> pointers);

}  // namespace syncnorm::cuda
