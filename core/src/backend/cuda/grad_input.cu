#include "backend/cuda/backward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/grad_input.hpp"

namespace syncnorm::cuda {
namespace {

template <Derivative kDerivative>
constexpr Tuning kTuning =
    kDerivative == Derivative::kAny ? tuning::kGradInputAny : tuning::kGradInput;

template <class T, int V, Derivative kDerivative, template <int> class Tile>
__global__ __launch_bounds__(
    kTuning<kDerivative>.threads,
    kTuning<kDerivative>.blocks_per_sm) void grad_input_kernel(GradInputMap<T, V, kDerivative> map,
                                                               typename Tile<V>::Plan plan) {
  map_tensor<depth_of<V>(kTuning<kDerivative>), Tile<V>>(map, plan);
}

}  // namespace

void grad_input(const Call& call, const syncnorm_backward_args& args,
                const BackwardChannels& channels, bool follows_grad_moments) {
  const Problem& problem = call.problem;
  const bool wanted = args.dx != nullptr || args.dresidual != nullptr;
  if (problem.size() == 0 || !wanted) return finish_backward(call, channels);
  const bool aligned = is_aligned({args.x, args.dy, args.y, args.dx, args.dresidual});
  const Derivative from = args.mask != nullptr ? Derivative::kAny : derivative_of(problem, args.y);
  dispatch_derivative(from, [&](auto derivative) {
    constexpr Tuning tuning = kTuning<derivative()>;
    const View view = view_of(problem, aligned, tuning.threads);
    dispatch_pack(problem.dtype, view.pack, [&](auto tag, auto v) {
      using T = typename decltype(tag)::Type;
      const auto map = grad_input_map<GradInputMap<T, v(), derivative()>>(problem, args, channels);
      launch_map<grad_input_kernel<T, v(), derivative(), RowTile>,
                 grad_input_kernel<T, v(), derivative(), PlaneTile>>(
          call, view, tuning, map, follows_grad_moments && call.overlaps());
    });
  });
}

}  // namespace syncnorm::cuda
