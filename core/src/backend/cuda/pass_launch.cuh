// The launch of a pass, over rows or over planes as the tensor is seen.
#pragma once

#include <algorithm>

#include "backend/cuda/call.hpp"
#include "backend/cuda/device/passes.cuh"
#include "backend/cuda/device/planes.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/geometry.hpp"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda {

// A grid that is on the device at once, for the items of a plan.
template <class Plan>
Grid one_wave(const Call& call, const Plan& plan, const PassLimits& pass, bool follows) {
  return {static_cast<unsigned>(std::min(items_of(plan), pass.wave)), plan.threads, call.stream,
          follows};
}

template <auto kKernel>
PassLimits pass_limits(const Call& call, const Tuning& tuning, bool merges) {
  return {tuning.threads, call.wave(reinterpret_cast<const void*>(kKernel), tuning.threads),
          merges};
}

// Kernels around sum_tensor.
template <auto kOfRows, auto kOfPlanes, class Terms>
void launch_sums(const Call& call, const View& view, const Tuning& tuning, const Terms& terms) {
  if (view.by_rows) {
    const PassLimits pass = pass_limits<kOfRows>(call, tuning, true);
    const RowPlan plan = row_plan(call.problem, view.pack, pass);
    launch<kOfRows>(one_wave(call, plan, pass, false), terms, plan,
                    call.merge(plan.tiles, plan.splits));
  } else {
    const PassLimits pass = pass_limits<kOfPlanes>(call, tuning, true);
    const PlanePlan plan = plane_plan(call.problem, view.pack, pass);
    launch<kOfPlanes>(one_wave(call, plan, pass, false), terms, plan,
                      call.merge(plan.view.c, plan.splits));
  }
}

// Kernels around map_tensor. follows: as of Grid.
template <auto kOfRows, auto kOfPlanes, class Map>
void launch_map(const Call& call, const View& view, const Tuning& tuning, const Map& map,
                bool follows) {
  if (view.by_rows) {
    const PassLimits pass = pass_limits<kOfRows>(call, tuning, false);
    const RowPlan plan = row_plan(call.problem, view.pack, pass);
    launch<kOfRows>(one_wave(call, plan, pass, follows), map, plan);
  } else {
    const PassLimits pass = pass_limits<kOfPlanes>(call, tuning, false);
    const PlanePlan plan = plane_plan(call.problem, view.pack, pass);
    launch<kOfPlanes>(one_wave(call, plan, pass, follows), map, plan);
  }
}

}  // namespace syncnorm::cuda
