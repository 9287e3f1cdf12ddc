#include "backend/cuda/forward_launch.cuh"
#include "backend/cuda/once_launch.cuh"
#include "backend/cuda/passes.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = tuning::kOnceThreads;
constexpr int kBlocks = tuning::kOnceBlocksPerSm;
constexpr int kUnroll = tuning::kForwardOnceUnroll;

template <class T, int V>
using Terms = MomentTerms<T, V, false>;

template <class T, int V, Form kForm>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void forward_once_rows(Terms<T, V> terms,
                                                             NormalizeMap<T, V, kForm> map,
                                                             RowPlan plan, Merge merge) {
  once_rows<Terms<T, V>, NormalizeMap<T, V, kForm>, V, kUnroll>(terms, map, plan, merge);
}

template <class T, int V, Form kForm>
__global__ __launch_bounds__(kThreads,
                             kBlocks) void forward_once_planes(Terms<T, V> terms,
                                                               NormalizeMap<T, V, kForm> map,
                                                               PlanePlan plan, Merge merge) {
  once_planes<Terms<T, V>, NormalizeMap<T, V, kForm>, V, kUnroll>(terms, map, plan, merge);
}

}  // namespace

bool forward_once(const Call& call, const syncnorm_forward_args& args, const MomentsOutput& output,
                  const ForwardChannels& channels) {
  const Problem& problem = call.problem;
  if (!call.limits.cooperative || problem.size() == 0 || args.mask != nullptr) return false;
  const Geometry geometry = divide_once(call, is_aligned({args.x, args.residual, args.y}));
  if (geometry.pack == 1) return false;
  const Merge merge{call.scratch.partials, nullptr, geometry.splits()};
  bool launched = false;
  dispatch_device_type(problem.dtype, [&](auto tag) {
    dispatch_form(problem, args.residual, [&](auto form) {
      using T = typename decltype(tag)::Type;
      constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));
      using Map = NormalizeMap<T, kPack, form()>;
      const Terms<T, kPack> terms{static_cast<const T*>(args.x), nullptr, channel_index(problem),
                                  output};
      const Map map = normalize_map<Map>(problem, args, channels);
      const std::size_t bytes = once_bytes<Terms<T, kPack>, Map, kPack>(geometry);
      launched = geometry.by_rows
                     ? launch_once(call, forward_once_rows<T, kPack, form()>, geometry, bytes,
                                   terms, map, geometry.rows, merge)
                     : launch_once(call, forward_once_planes<T, kPack, form()>, geometry, bytes,
                                   terms, map, geometry.planes, merge);
    });
  });
  return launched;
}

}  // namespace syncnorm::cuda
