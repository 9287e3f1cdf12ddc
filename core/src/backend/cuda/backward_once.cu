#include "backend/cuda/backward_launch.cuh"
#include "backend/cuda/once_launch.cuh"
#include "backend/cuda/passes.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = tuning::kOnceThreads;
constexpr int kBlocks = tuning::kOnceBlocksPerSm;
constexpr int kUnroll = tuning::kBackwardOnceUnroll;

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void backward_once_rows(GradTerms<T, V, kDerivative> terms,
                                                              GradInputMap<T, V, kDerivative> map,
                                                              RowPlan plan, Merge merge) {
  once_rows<GradTerms<T, V, kDerivative>, GradInputMap<T, V, kDerivative>, V, kUnroll>(terms, map,
                                                                                       plan, merge);
}

template <class T, int V, Derivative kDerivative>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void backward_once_planes(GradTerms<T, V, kDerivative> terms,
                                                                GradInputMap<T, V, kDerivative> map,
                                                                PlanePlan plan, Merge merge) {
  once_planes<GradTerms<T, V, kDerivative>, GradInputMap<T, V, kDerivative>, V, kUnroll>(
      terms, map, plan, merge);
}

}  // namespace

bool backward_once(const Call& call, const syncnorm_backward_args& args,
                   const BackwardChannels& channels, double hash, double* wire) {
  const Problem& problem = call.problem;
  const bool wanted = args.dx != nullptr || args.dresidual != nullptr;
  const bool suits = wanted && args.y == nullptr && problem.size() > 0;
  if (!call.limits.cooperative || !suits) return false;
  const Geometry geometry =
      divide_once(call, is_aligned({args.x, args.dy, args.dx, args.dresidual}));
  if (geometry.pack == 1) return false;
  const Merge merge{call.scratch.partials, nullptr, geometry.splits()};
  bool launched = false;
  dispatch_device_type(problem.dtype, [&](auto tag) {
    using enum Derivative;
    dispatch_derivative<kOne, kFromInput, kAny>(derivative_of(problem, nullptr), [&](auto from) {
      using T = typename decltype(tag)::Type;
      constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));
      constexpr Derivative kDerivative = from();
      using Terms = GradTerms<T, kPack, kDerivative>;
      using Map = GradInputMap<T, kPack, kDerivative>;
      const Terms terms = grad_terms<Terms>(problem, args, channels, hash, wire);
      const Map map = grad_input_map<Map>(problem, args, channels);
      const std::size_t bytes = once_bytes<Terms, Map, kPack>(geometry);
      launched = geometry.by_rows
                     ? launch_once(call, backward_once_rows<T, kPack, kDerivative>, geometry, bytes,
                                   terms, map, geometry.rows, merge)
                     : launch_once(call, backward_once_planes<T, kPack, kDerivative>, geometry,
                                   bytes, terms, map, geometry.planes, merge);
    });
  });
  return launched;
}

}  // namespace syncnorm::cuda
