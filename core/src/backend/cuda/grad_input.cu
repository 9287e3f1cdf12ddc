#include "backend/cuda/backward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/grad_input.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = tuning::kGradInput.threads;
constexpr int kUnroll = tuning::kGradInputUnroll;

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads, 2) void grad_input_rows(GradInputMap<T, V, kDerivative> map,
                                                               RowPlan plan) {
  map_rows<GradInputMap<T, V, kDerivative>, V, kUnroll>(map, plan);
}

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads,
                             2) void grad_input_planes(GradInputMap<T, V, kDerivative> map,
                                                       PlanePlan plan) {
  map_planes<GradInputMap<T, V, kDerivative>, V, kUnroll>(map, plan);
}

}  // namespace

void grad_input(const Call& call, const syncnorm_backward_args& args,
                const BackwardChannels& channels) {
  const Problem& problem = call.problem;
  const bool wanted = args.dx != nullptr || args.dresidual != nullptr;
  if (problem.size() == 0 || !wanted) return finish_backward(call, channels);
  const Geometry geometry =
      divide(problem, is_aligned({args.x, args.dy, args.y, args.dx, args.dresidual}),
             tuning::kGradInput, call.limits);
  dispatch_pack(problem.dtype, geometry.pack, [&](auto tag, auto v) {
    using enum Derivative;
    const Derivative from = derivative_of(problem, args.y);
    dispatch_derivative<kOne, kFromInput, kFromOutput, kAny>(from, [&](auto derivative) {
      using T = typename decltype(tag)::Type;
      using Map = GradInputMap<T, v(), derivative()>;
      const Map map = grad_input_map<Map>(problem, args, channels);
      launch_map(call, geometry, grad_input_rows<T, v(), derivative()>,
                 grad_input_planes<T, v(), derivative()>, map);
    });
  });
}

}  // namespace syncnorm::cuda
