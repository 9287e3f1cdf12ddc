#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/device/planes.cuh"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/normalize.hpp"

namespace syncbn::cuda {
namespace {

constexpr int kThreads = tuning::kNormalize.threads;
constexpr int kUnroll = tuning::kNormalizeUnroll;

template <class T, int V, bool kResidual>
__global__ __launch_bounds__(kThreads, 2) void normalize_rows(NormalizeMap<T, V, kResidual> map,
                                                              RowPlan plan) {
  const bool agree = ranks_agree(map.channels);
  finish_channels(map, agree);
  map_rows<NormalizeMap<T, V, kResidual>, V, kUnroll>(map, plan, agree);
}

template <class T, int V, bool kResidual>
__global__ __launch_bounds__(kThreads, 2) void normalize_planes(NormalizeMap<T, V, kResidual> map,
                                                                PlanePlan plan) {
  const bool agree = ranks_agree(map.channels);
  finish_channels(map, agree);
  map_planes<NormalizeMap<T, V, kResidual>, V, kUnroll>(map, plan, agree);
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
      Grid grid{geometry.blocks(), geometry.threads(), 0, call.stream};
      if (geometry.by_rows) {
        grid.shared_bytes = constants_bytes<typename Map::Constant>(geometry.rows.tile_channels);
        launch(normalize_rows<T, v(), residual()>, grid, map, geometry.rows);
      } else {
        launch(normalize_planes<T, v(), residual()>, grid, map, geometry.planes);
      }
    });
  });
}

}  // namespace syncbn::cuda
