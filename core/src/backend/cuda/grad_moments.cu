#include "backend/cuda/backward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/grad_moments.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = tuning::kGradMoments.threads;
constexpr int kUnroll = tuning::kGradMomentsUnroll;

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads,
                             2) void grad_moments_of_rows(GradTerms<T, V, kDerivative> terms,
                                                          RowPlan plan, Merge merge) {
  sum_rows<GradTerms<T, V, kDerivative>, V, kUnroll>(terms, plan, merge);
}

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads,
                             2) void grad_moments_of_planes(GradTerms<T, V, kDerivative> terms,
                                                            PlanePlan plan, Merge merge) {
  sum_planes<GradTerms<T, V, kDerivative>, V, kUnroll>(terms, plan, merge);
}

}  // namespace

void grad_moments(const Call& call, const syncnorm_backward_args& args,
                  const BackwardChannels& channels, double hash, double* wire) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return empty_grad_moments(call, channels.saved, hash, wire);
  const Geometry geometry =
      divide(problem, is_aligned({args.x, args.dy, args.y}), tuning::kGradMoments, call.limits);
  const Merge merge = call.merge(geometry);
  dispatch_pack(problem.dtype, geometry.pack, [&](auto tag, auto v) {
    using enum Derivative;
    const Derivative from = derivative_of(problem, args.y);
    dispatch_derivative<kOne, kFromInput, kFromOutput, kAny>(from, [&](auto derivative) {
      using T = typename decltype(tag)::Type;
      using Terms = GradTerms<T, v(), derivative()>;
      const Terms terms = grad_terms<Terms>(problem, args, channels, hash, wire);
      launch_sums<v()>(call, geometry, grad_moments_of_rows<T, v(), derivative()>,
                       grad_moments_of_planes<T, v(), derivative()>, terms, merge);
    });
  });
}

}  // namespace syncnorm::cuda
