#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/normalize.hpp"

namespace syncnorm::cuda {
namespace {

template <Form kForm>
constexpr Tuning kTuning = kForm == Form::kElu        ? tuning::kNormalizeElu
                           : kForm == Form::kResidual ? tuning::kNormalizeResidual
                                                      : tuning::kNormalize;

template <class T, int V, Form kForm, template <int> class Tile>
__global__ __launch_bounds__(
    kTuning<kForm>.threads,
    kTuning<kForm>.blocks_per_sm) void normalize_kernel(NormalizeMap<T, V, kForm> map,
                                                        typename Tile<V>::Plan plan) {
  map_tensor<depth_of<V>(kTuning<kForm>), Tile<V>>(map, plan);
}

}  // namespace

void normalize(const Call& call, const syncnorm_forward_args& args, const ForwardChannels& channels,
               bool follows_moments) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return finish_forward(call, channels);
  const bool aligned = is_aligned({args.x, args.residual, args.y});
  dispatch_form(problem, args.residual, [&](auto form) {
    constexpr Tuning tuning = kTuning<form()>;
    const View view = view_of(problem, aligned, tuning.threads);
    dispatch_pack(problem.dtype, view.pack, [&](auto tag, auto v) {
      using T = typename decltype(tag)::Type;
      const auto map = normalize_map<NormalizeMap<T, v(), form()>>(problem, args, channels);
      launch_map<normalize_kernel<T, v(), form(), RowTile>,
                 normalize_kernel<T, v(), form(), PlaneTile>>(call, view, tuning, map,
                                                              follows_moments && call.overlaps());
    });
  });
}

}  // namespace syncnorm::cuda
