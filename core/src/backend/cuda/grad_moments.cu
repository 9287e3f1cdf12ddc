#include "backend/cuda/backward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/grad_moments.hpp"

namespace syncnorm::cuda {
namespace {

template <Derivative kDerivative>
constexpr Tuning kTuning = kDerivative == Derivative::kAny          ? tuning::kGradMomentsAny
                           : kDerivative == Derivative::kFromOutput ? tuning::kGradMomentsFromOutput
                           : kDerivative == Derivative::kFromInput  ? tuning::kGradMomentsFromInput
                                                                    : tuning::kGradMoments;

template <class T, int V, Derivative kDerivative, template <int> class Tile>
__global__ __launch_bounds__(
    kTuning<kDerivative>.threads,
    kTuning<kDerivative>.blocks_per_sm) void grad_moments_kernel(GradTerms<T, V, kDerivative> terms,
                                                                 typename Tile<V>::Plan plan,
                                                                 Merge merge) {
  sum_tensor<kTuning<kDerivative>.threads, depth_of<V>(kTuning<kDerivative>), Tile<V>, V>(
      terms, plan, merge);
}

}  // namespace

void grad_moments(const Call& call, const syncnorm_backward_args& args,
                  const BackwardChannels& channels, double hash, double* wire) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return empty_grad_moments(call, channels.saved, hash, wire);
  const bool aligned = is_aligned({args.x, args.dy, args.y});
  dispatch_derivative(derivative_of(problem, args.y), [&](auto derivative) {
    constexpr Tuning tuning = kTuning<derivative()>;
    const View view = view_of(problem, aligned, tuning.threads);
    dispatch_pack(problem.dtype, view.pack, [&](auto tag, auto v) {
      using T = typename decltype(tag)::Type;
      const auto terms =
          grad_terms<GradTerms<T, v(), derivative()>>(problem, args, channels, hash, wire);
      launch_sums<grad_moments_kernel<T, v(), derivative(), RowTile>,
                  grad_moments_kernel<T, v(), derivative(), PlaneTile>>(call, view, tuning, terms);
    });
  });
}

}  // namespace syncnorm::cuda
