// A sum over a grid, written as the library's reductions are, with one fault planted at a time.
//
//   simt_faults <fault>    0 and "right", or what the harness or the result says is wrong
//
// What finds which fault is written in CMakeLists.txt.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

namespace {

enum class Fault {
  kNone,
  kNoBarrierAfterWrite,
  kNoBarrierBeforeRewrite,
  kNoBarrierInTree,
  kNoBarrierBeforeFlag,
  kBarrierInDivergentCode,
  kShuffleInDivergentCode,
  kNoFence,
  kFenceTooEarly,
  kTicketNotAtomic,
  kTicketResetByStore,
  kNoGridSync,
  kSharedOutOfBounds,
  kDynamicSharedOutOfBounds,
  kGlobalOutOfBounds,
  kSharedNotInitialized,
  kMisaligned,
  kSharedBeyondLimit,
  kNoDependencySync,
  kWriteBeforeDependencySync,
  kNoClusterSync,
  kNoClusterSyncBeforeExit,
};

constexpr int kThreads = 64;
constexpr int kWarps = kThreads / warpSize;
constexpr int kBlocks = 8;
constexpr int kValues = 4000;

template <Fault kFault>
__device__ float warp_sum(float value) {
  for (int bits = warpSize / 2; bits > 0; bits /= 2) {
    if (kFault == Fault::kShuffleInDivergentCode && threadIdx.x % warpSize == 3) continue;
    value += __shfl_xor_sync(0xffffffffu, value, bits);
  }
  return value;
}

// The sum over the block, in every thread.
template <Fault kFault>
__device__ float block_sum(float value, float* shared) {
  const int warp = static_cast<int>(threadIdx.x) / warpSize;
  const float sum = warp_sum<kFault>(value);
  if (threadIdx.x % warpSize == 0)
    shared[warp + (kFault == Fault::kDynamicSharedOutOfBounds)] = sum;
  if (kFault == Fault::kBarrierInDivergentCode && warp == 0) __syncthreads();
  if (kFault != Fault::kNoBarrierAfterWrite) __syncthreads();
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared[w];
  if (kFault != Fault::kNoBarrierBeforeRewrite) __syncthreads();
  return total;
}

template <Fault kFault>
__device__ bool is_last_block(unsigned* ticket) {
  __shared__ bool last;
  if (kFault == Fault::kFenceTooEarly) __syncthreads();
  if (threadIdx.x == 0) {
    if (kFault != Fault::kNoFence && kFault != Fault::kFenceTooEarly) __threadfence();
    if (kFault == Fault::kTicketNotAtomic) {
      const unsigned taken = *ticket;
      last = taken == gridDim.x - 1;
      *ticket = last ? 0 : taken + 1;
    } else if (kFault == Fault::kTicketResetByStore) {
      last = atomicAdd(ticket, 1) == gridDim.x - 1;
      if (last) *ticket = 0;
    } else {
      last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    }
  }
  if (kFault != Fault::kNoBarrierBeforeFlag) __syncthreads();
  return last;
}

template <Fault kFault>
__device__ float tree_sum(const float* partials) {
  __shared__ float tree[kThreads];
  const unsigned thread = threadIdx.x;
  const bool within = thread < gridDim.x;
  if (kFault != Fault::kSharedNotInitialized || within)
    tree[thread] = within ? partials[thread] : 0;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) tree[thread] += tree[thread + half];
    if (kFault != Fault::kNoBarrierInTree) __syncthreads();
  }
  return tree[kFault == Fault::kSharedOutOfBounds ? kThreads * (thread + 1) : 0];
}

template <Fault kFault>
__global__ void sum_kernel(const float* x, int n, float* partials, unsigned* ticket, float* out) {
  float* const shared = reinterpret_cast<float*>(simt::dynamic_shared());
  float values[2] = {0, 0};  // of even and of odd places: the shared memory is used twice
  const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int end = kFault == Fault::kGlobalOutOfBounds ? n + 1 : n;
  for (int i = first; i < end; i += static_cast<int>(gridDim.x * blockDim.x))
    values[i / kThreads % 2] += __ldg(x + i);
  if (kFault == Fault::kMisaligned) values[0] += __ldg(reinterpret_cast<const float4*>(x + 1)).x;
  const float even = block_sum<kFault>(values[0], shared);
  const float odd = block_sum<kFault>(values[1], shared);
  if (kFault == Fault::kFenceTooEarly) __threadfence();
  if (threadIdx.x == 0) partials[blockIdx.x] = even + odd;
  if (!is_last_block<kFault>(ticket)) return;
  const float total = tree_sum<kFault>(partials);
  if (threadIdx.x == 0) *out = total;
}

// The sum of a block's share of x.
template <Fault kFault>
__device__ float block_share(const float* x, int n) {
  float* const shared = reinterpret_cast<float*>(simt::dynamic_shared());
  float value = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    value += x[i];
  return block_sum<kFault>(value, shared);
}

// The same in one cooperative launch: every block adds up all partial sums.
template <Fault kFault>
__global__ void cooperative_kernel(const float* x, int n, float* partials, float* out) {
  const float sum = block_share<kFault>(x, n);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (kFault != Fault::kNoGridSync) cooperative_groups::this_grid().sync();
  float total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += partials[b];
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// The same in two dependent launches: this one leaves partial sums ...
template <Fault kFault>
__global__ void partials_kernel(const float* x, int n, float* partials) {
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
  const float sum = block_share<kFault>(x, n);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// ... and this one adds them up, and clears x.
template <Fault kFault>
__global__ void dependent_kernel(const float* partials, float* x, int n, float* out) {
  if (kFault != Fault::kNoDependencySync && kFault != Fault::kWriteBeforeDependencySync)
    cudaGridDependencySynchronize();
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    x[i] = 0;
  if (kFault == Fault::kWriteBeforeDependencySync) cudaGridDependencySynchronize();
  float total = 0;
  for (int b = 0; b < kBlocks; ++b) total += partials[b];
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// And in one cluster: every block reads the sums of all from their shared memory.
template <Fault kFault>
__global__ void cluster_kernel(const float* x, int n, float* out) {
  __shared__ float block_total;
  const auto cluster = cooperative_groups::this_cluster();
  const float sum = block_share<kFault>(x, n);
  if (threadIdx.x == 0) block_total = sum;
  const float* totals[kBlocks];
  for (unsigned rank = 0; rank < kBlocks; ++rank)
    totals[rank] = cluster.map_shared_rank(&block_total, rank);
  if (kFault != Fault::kNoClusterSync) cluster.sync();
  float total = 0;
  for (const float* other : totals) total += *other;
  if (kFault != Fault::kNoClusterSyncBeforeExit) cluster.sync();
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// ---------------------------------------------------------------------------------------- host

struct Free {
  void operator()(void* p) const { cudaFree(p); }
};
template <class T>
std::unique_ptr<T[], Free> on_device(const std::vector<T>& values) {
  T* memory = nullptr;
  cudaMalloc(&memory, values.size() * sizeof(T));
  cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  return std::unique_ptr<T[], Free>(memory);
}

bool equal(const float* got, int count, float expected) {
  for (int i = 0; i < count; ++i)
    if (!(got[i] == expected)) {
      std::printf("wrong result: got %g, expected %g\n", double{got[i]}, double{expected});
      return false;
    }
  return true;
}

bool succeeded(cudaError_t error) {
  if (error != cudaSuccess) std::printf("%s\n", cudaGetErrorString(error));
  return error == cudaSuccess;
}

template <Fault kFault>
int run() {
  std::vector<float> values(kValues);
  for (int i = 0; i < kValues; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i % 7);
  const float expected = std::accumulate(values.begin(), values.end(), 0.0f);
  const auto x = on_device(values);
  const auto partials = on_device(std::vector<float>(kBlocks));
  const auto out = on_device(std::vector<float>(kBlocks));
  const auto ticket = on_device(std::vector<unsigned>{0});

  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = kBlocks;
  config.blockDim = kThreads;
  // All that a block may have, without regard to static shared memory.
  config.dynamicSmemBytes = kFault == Fault::kSharedBeyondLimit ? 48 << 10 : kWarps * sizeof(float);
  bool right = true;
  for (int pass = 0; pass < 2; ++pass) {
    config.numAttrs = 0;
    right = right &&
            succeeded(cudaLaunchKernelEx(&config, sum_kernel<kFault>, x.get(), kValues,
                                         partials.get(), ticket.get(), out.get())) &&
            equal(out.get(), 1, expected);
    cudaMemset(partials.get(), 0xff, kBlocks * sizeof(float));
    config.attrs = &cooperative;
    config.numAttrs = 1;
    right = right &&
            succeeded(cudaLaunchKernelEx(&config, cooperative_kernel<kFault>, x.get(), kValues,
                                         partials.get(), out.get())) &&
            equal(out.get(), kBlocks, expected);
  }
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  config.attrs = &cluster;
  right =
      right &&
      succeeded(cudaLaunchKernelEx(&config, cluster_kernel<kFault>, x.get(), kValues, out.get())) &&
      equal(out.get(), kBlocks, expected);
  cudaLaunchAttribute programmatic{};
  programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  programmatic.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &programmatic;
  cudaMemset(partials.get(), 0xff, kBlocks * sizeof(float));
  right = right &&
          succeeded(cudaLaunchKernelEx(&config, partials_kernel<kFault>, x.get(), kValues,
                                       partials.get())) &&
          succeeded(cudaLaunchKernelEx(&config, dependent_kernel<kFault>, partials.get(), x.get(),
                                       kValues, out.get())) &&
          succeeded(cudaDeviceSynchronize()) && equal(out.get(), kBlocks, expected);
  if (right) std::puts("right");
  return right ? 0 : 1;
}

struct Named {
  const char* name;
  int (*run)();
};
constexpr Named kFaults[] = {
    {"none", run<Fault::kNone>},
    {"no_barrier_after_write", run<Fault::kNoBarrierAfterWrite>},
    {"no_barrier_before_rewrite", run<Fault::kNoBarrierBeforeRewrite>},
    {"no_barrier_in_tree", run<Fault::kNoBarrierInTree>},
    {"no_barrier_before_flag", run<Fault::kNoBarrierBeforeFlag>},
    {"barrier_in_divergent_code", run<Fault::kBarrierInDivergentCode>},
    {"shuffle_in_divergent_code", run<Fault::kShuffleInDivergentCode>},
    {"no_fence", run<Fault::kNoFence>},
    {"fence_too_early", run<Fault::kFenceTooEarly>},
    {"ticket_not_atomic", run<Fault::kTicketNotAtomic>},
    {"ticket_reset_by_store", run<Fault::kTicketResetByStore>},
    {"no_grid_sync", run<Fault::kNoGridSync>},
    {"shared_out_of_bounds", run<Fault::kSharedOutOfBounds>},
    {"dynamic_shared_out_of_bounds", run<Fault::kDynamicSharedOutOfBounds>},
    {"global_out_of_bounds", run<Fault::kGlobalOutOfBounds>},
    {"shared_not_initialized", run<Fault::kSharedNotInitialized>},
    {"misaligned", run<Fault::kMisaligned>},
    {"shared_beyond_limit", run<Fault::kSharedBeyondLimit>},
    {"no_dependency_sync", run<Fault::kNoDependencySync>},
    {"write_before_dependency_sync", run<Fault::kWriteBeforeDependencySync>},
    {"no_cluster_sync", run<Fault::kNoClusterSync>},
    {"no_cluster_sync_before_exit", run<Fault::kNoClusterSyncBeforeExit>},
};

}  // namespace

int main(int count, char** arguments) {
  for (const Named& fault : kFaults)
    if (count == 2 && std::strcmp(arguments[1], fault.name) == 0) return fault.run();
  std::puts("usage: simt_faults <fault>");
  return 2;
}
