#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/pass_launch.cuh"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/tuning/moments.hpp"

namespace syncnorm::cuda {
namespace {

template <bool kMasked>
constexpr Tuning kTuning = kMasked ? tuning::kMaskedMoments : tuning::kMoments;

template <class T, int V, bool kMasked, template <int> class Tile>
__global__ __launch_bounds__(
    kTuning<kMasked>.threads,
    kTuning<kMasked>.blocks_per_sm) void moments_kernel(MomentTerms<T, V, kMasked> terms,
                                                        typename Tile<V>::Plan plan, Merge merge) {
  sum_tensor<kTuning<kMasked>.threads, depth_of<V>(kTuning<kMasked>), Tile<V>, V>(terms, plan,
                                                                                  merge);
}

}  // namespace

void moments(const Call& call, const void* x, const std::uint8_t* mask,
             const MomentsOutput& output) {
  const Problem& problem = call.problem;
  if (problem.size() == 0) return empty_moments(call, mask, output);
  const Tuning& tuning = mask != nullptr ? kTuning<true> : kTuning<false>;
  const View view = view_of(problem, is_aligned({x}), tuning.threads);
  dispatch_pack(problem.dtype, view.pack, [&](auto tag, auto v) {
    dispatch_flag(mask != nullptr, [&](auto masked) {
      using T = typename decltype(tag)::Type;
      const MomentTerms<T, v(), masked()> terms{static_cast<const T*>(x), mask,
                                                channel_index(problem), output};
      launch_sums<moments_kernel<T, v(), masked(), RowTile>,
                  moments_kernel<T, v(), masked(), PlaneTile>>(call, view, tuning, terms);
    });
  });
}

}  // namespace syncnorm::cuda
