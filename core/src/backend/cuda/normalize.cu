#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/normalize.hpp"

namespace syncbn::cuda {
namespace {

constexpr int kThreads = tuning::kNormalize.threads;
constexpr int kUnroll = tuning::kNormalizeUnroll;

template <class T, int V, bool kResidual>
__global__ __launch_bounds__(kThreads, 2) void normalize_rows(NormalizeMap<T, V, kResidual> map,
                                                              RowPlan plan) {
  map_rows<NormalizeMap<T, V, kResidual>, V, kUnroll>(map, plan);
}

template <class T, int V, bool kResidual>
__global__ __launch_bounds__(kThreads, 2) void normalize_planes(NormalizeMap<T, V, kResidual> map,
                                                                PlanePlan plan) {
  map_planes<NormalizeMap<T, V, kResidual>, V, kUnroll>(map, plan);
}

}  // namespace

void normalize(const Call& call, const syncbn_forward_args& args, const ForwardChannels& channels) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return finish_forward(call, channels);
  const Geometry geometry =
      divide(problem, is_aligned({args.x, args.residual, args.y}), tuning::kNormalize, call.limits);
  dispatch_pack(problem.dtype, geometry.pack, [&](auto tag, auto v) {
    dispatch_flag(args.residual != nullptr, [&](auto residual) {
      using T = typename decltype(tag)::Type;
      using Map = NormalizeMap<T, v(), residual()>;
      const Map map = normalize_map<Map>(problem, args, channels);
      launch_map(call, geometry, normalize_rows<T, v(), residual()>,
                 normalize_planes<T, v(), residual()>, map);
    });
  });
}

}  // namespace syncbn::cuda
