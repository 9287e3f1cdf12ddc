#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/moments.hpp"

namespace syncnorm::cuda {
namespace {

template <bool kMasked>
constexpr Tuning kTuning = kMasked ? tuning::kMaskedMoments : tuning::kMoments;
constexpr int kUnroll = tuning::kMomentsUnroll;
constexpr int kUnrollMasked = tuning::kMaskedMomentsUnroll;

template <class T, int V, bool kMasked>
__global__ __launch_bounds__(kTuning<kMasked>.threads,
                             2) void moments_of_rows(MomentTerms<T, V, kMasked> terms, RowPlan plan,
                                                     Merge merge) {
  sum_rows<MomentTerms<T, V, kMasked>, V, kMasked ? kUnrollMasked : kUnroll>(terms, plan, merge);
}

template <class T, int V, bool kMasked>
__global__ __launch_bounds__(kTuning<kMasked>.threads,
                             2) void moments_of_planes(MomentTerms<T, V, kMasked> terms,
                                                       PlanePlan plan, Merge merge) {
  sum_planes<MomentTerms<T, V, kMasked>, V, kMasked ? kUnrollMasked : kUnroll>(terms, plan, merge);
}

}  // namespace

void moments(const Call& call, const void* x, const std::uint8_t* mask,
             const MomentsOutput& output) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return empty_moments(call, mask, output);
  const Geometry geometry = divide(problem, is_aligned({x}),
                                   mask != nullptr ? kTuning<true> : kTuning<false>, call.limits);
  const Merge merge = call.merge(geometry);
  dispatch_pack(problem.dtype, geometry.pack, [&](auto tag, auto v) {
    dispatch_flag(mask != nullptr, [&](auto masked) {
      using T = typename decltype(tag)::Type;
      using Terms = MomentTerms<T, v(), masked()>;
      const Terms terms{static_cast<const T*>(x), mask, channel_index(problem), output};
      launch_sums<v()>(call, geometry, moments_of_rows<T, v(), masked()>,
                       moments_of_planes<T, v(), masked()>, terms, merge);
    });
  });
}

}  // namespace syncnorm::cuda
