#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/normalize.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = tuning::kNormalize.threads;
template <Form kForm>
constexpr int kUnroll =
    kForm == Form::kElu ? tuning::kNormalizeEluUnroll : tuning::kNormalizeUnroll;

template <class T, int V, Form kForm>
__global__ __launch_bounds__(kThreads, 2) void normalize_rows(NormalizeMap<T, V, kForm> map,
                                                              RowPlan plan) {
  map_rows<NormalizeMap<T, V, kForm>, V, kUnroll<kForm>>(map, plan);
}

template <class T, int V, Form kForm>
__global__ __launch_bounds__(kThreads, 2) void normalize_planes(NormalizeMap<T, V, kForm> map,
                                                                PlanePlan plan) {
  map_planes<NormalizeMap<T, V, kForm>, V, kUnroll<kForm>>(map, plan);
}

}  // namespace

void normalize(const Call& call, const syncnorm_forward_args& args,
               const ForwardChannels& channels) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return finish_forward(call, channels);
  const Geometry geometry =
      divide(problem, is_aligned({args.x, args.residual, args.y}), tuning::kNormalize, call.limits);
  dispatch_pack(problem.dtype, geometry.pack, [&](auto tag, auto v) {
    dispatch_form(problem, args.residual, [&](auto form) {
      using T = typename decltype(tag)::Type;
      using Map = NormalizeMap<T, v(), form()>;
      const Map map = normalize_map<Map>(problem, args, channels);
      launch_map(call, geometry, normalize_rows<T, v(), form()>, normalize_planes<T, v(), form()>,
                 map);
    });
  });
}

}  // namespace syncnorm::cuda
