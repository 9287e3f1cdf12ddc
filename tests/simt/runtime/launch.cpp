// Launches: what a real device would refuse is refused.
#include <algorithm>
#include <optional>
#include <span>

#include "engine/grid.hpp"
#include "engine/static_shared.hpp"
#include "runtime/stream.hpp"
#include "simt/launch.hpp"

namespace simt {
namespace {

std::uint64_t product(const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }

// The shared memory of a kernel's blocks on the current device.
struct SharedMemory {
  std::int64_t static_bytes = 0;
  std::int64_t most_dynamic_bytes = 0;  // negative where a launch needs an attribute first
};

cudaError_t find_shared_memory(Runtime& runtime, const void* kernel, SharedMemory& shared) {
  const std::optional<std::size_t> static_bytes = static_shared_bytes(kernel);
  if (!static_bytes) {
    runtime.fault =
        "the static shared memory of a kernel is unknown: link its module with --emit-relocs";
    return cudaErrorLaunchFailure;
  }
  shared.static_bytes = static_cast<std::int64_t>(*static_bytes);
  const auto allowed = runtime.dynamic_shared.find({this_thread().device, kernel});
  shared.most_dynamic_bytes =
      allowed == runtime.dynamic_shared.end()
          ? static_cast<std::int64_t>(runtime.limits.shared_per_block) - shared.static_bytes
          : allowed->second;
  return cudaSuccess;
}

int blocks_per_sm(const Limits& limits, std::uint64_t threads, std::uint64_t shared_bytes) {
  constexpr std::size_t kReserved = 1 << 10;  // by the system, of every block's shared memory
  constexpr std::uint64_t kWarpThreads = 32;
  if (threads == 0 || threads > static_cast<std::uint64_t>(limits.threads_per_block)) return 0;
  const std::uint64_t rounded = (threads + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  const auto by_threads = static_cast<std::uint64_t>(limits.threads_per_sm) / rounded;
  const std::uint64_t by_shared = limits.shared_per_sm / (shared_bytes + kReserved);
  const auto most = static_cast<std::uint64_t>(limits.blocks_per_sm);
  return static_cast<int>(std::min({by_threads, by_shared, most}));
}

struct Attributes {
  bool cooperative = false;
  dim3 cluster = 1;
  bool programmatic = false;  // programmatic dependent launch
};

cudaError_t read_attributes(const Limits& limits, const cudaLaunchConfig_t& config,
                            Attributes& read) {
  for (const cudaLaunchAttribute& attribute : std::span(config.attrs, config.numAttrs)) {
    switch (attribute.id) {
      case cudaLaunchAttributeIgnore: break;
      case cudaLaunchAttributeCooperative: read.cooperative = attribute.val.cooperative != 0; break;
      case cudaLaunchAttributeClusterDimension:
        read.cluster = {attribute.val.clusterDim.x, attribute.val.clusterDim.y,
                        attribute.val.clusterDim.z};
        break;
      case cudaLaunchAttributeProgrammaticStreamSerialization:
        read.programmatic = attribute.val.programmaticStreamSerializationAllowed != 0;
        break;
      default: return cudaErrorNotSupported;
    }
  }
  const bool new_device = limits.major >= 9;
  return (read.programmatic || product(read.cluster) != 1) && !new_device ? cudaErrorNotSupported
                                                                          : cudaSuccess;
}

cudaError_t check_shape(const Limits& limits, const dim3& grid, const dim3& block) {
  constexpr unsigned kMostX = 0x7fff'ffff, kMostYZ = 0xffff, kMostBlockZ = 64;
  if (product(grid) == 0 || product(block) == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > kMostX || grid.y > kMostYZ || grid.z > kMostYZ) return cudaErrorInvalidConfiguration;
  if (block.z > kMostBlockZ ||
      product(block) > static_cast<std::uint64_t>(limits.threads_per_block))
    return cudaErrorInvalidConfiguration;
  return cudaSuccess;
}

cudaError_t check_cooperative(const Limits& limits, const Grid& grid, int blocks_per_sm) {
  if (!limits.cooperative) return cudaErrorNotSupported;
  if (product(grid.blocks) > static_cast<std::uint64_t>(blocks_per_sm) * limits.sms)
    return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

// Clusters on the whole device, as if it were one graphics processing cluster.
int active_clusters(const Limits& limits, const dim3& cluster, int blocks_per_sm) {
  return static_cast<int>(static_cast<std::uint64_t>(blocks_per_sm) * limits.sms /
                          product(cluster));
}

cudaError_t check_cluster(const Runtime& runtime, const void* kernel, const Grid& grid,
                          int blocks_per_sm) {
  constexpr std::uint64_t kPortable = 8, kMost = 16;
  const dim3& size = grid.cluster;
  const bool large = runtime.large_clusters.contains({this_thread().device, kernel});
  if (product(size) == 0 || product(size) > (large ? kMost : kPortable) ||
      grid.blocks.x % size.x != 0 || grid.blocks.y % size.y != 0 || grid.blocks.z % size.z != 0)
    return cudaErrorInvalidClusterSize;
  if (product(size) > 1 && active_clusters(runtime.limits, size, blocks_per_sm) == 0)
    return cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

// Launches of one thread differ in their order, and a seed tells them all.
std::uint64_t launch_seed(std::uint64_t seed) {
  static thread_local std::uint64_t launches = 0;
  return seed == 0 ? 0 : Order(seed + ++launches).random() | 1;
}

// Returns false if a kernel has failed.
template <class F>
bool record_fault(Runtime& runtime, F&& run) {
  try {
    run();
    return true;
  } catch (const Fault& fault) {
    const Lock lock(runtime.mutex);
    if (runtime.fault.empty()) runtime.fault = fault.message;
    return false;
  }
}

Work whole(Runtime& runtime, Grid grid, std::uint64_t seed) {
  return [&runtime, grid = std::move(grid), seed] {
    record_fault(runtime, [&] { GridRun(grid, launch_seed(seed)).finish(); });
  };
}

std::function<Work()> start_early(Runtime& runtime, Grid grid, std::uint64_t seed,
                                  int resident_blocks) {
  return [&runtime, grid = std::move(grid), seed, resident_blocks]() -> Work {
    auto run = std::make_shared<GridRun>(grid, launch_seed(seed));
    if (!record_fault(runtime, [&] { run->start_early(std::max(resident_blocks, 1)); }))
      return [] {};
    return [&runtime, run = std::move(run)] { record_fault(runtime, [&] { run->finish(); }); };
  };
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel,
                   std::function<void()> thread) {
  return call("cudaLaunchKernelEx", [&](Runtime& runtime, Lock& lock) {
    const auto stream = find_stream(runtime, config->stream);
    if (stream == nullptr || stream->device != this_thread().device)
      return cudaErrorInvalidResourceHandle;
    Attributes attributes;
    if (const cudaError_t error = read_attributes(runtime.limits, *config, attributes))
      return error;
    Grid grid{config->gridDim,        config->blockDim,   config->dynamicSmemBytes,
              attributes.cooperative, attributes.cluster, std::move(thread)};
    if (const cudaError_t error = check_shape(runtime.limits, grid.blocks, grid.threads))
      return error;
    SharedMemory shared;
    if (const cudaError_t error = find_shared_memory(runtime, kernel, shared)) return error;
    if (std::cmp_greater(grid.dynamic_bytes, shared.most_dynamic_bytes))
      return cudaErrorInvalidValue;
    const int resident =
        blocks_per_sm(runtime.limits, product(grid.threads),
                      static_cast<std::uint64_t>(shared.static_bytes) + grid.dynamic_bytes);
    if (const cudaError_t error = check_cluster(runtime, kernel, grid, resident)) return error;
    if (grid.cooperative)
      if (const cudaError_t error = check_cooperative(runtime.limits, grid, resident)) return error;
    ++runtime.counts.kernels;
    if (attributes.programmatic) ++runtime.counts.dependent_kernels;
    Operation operation{whole(runtime, grid, runtime.seed)};
    operation.held_back = runtime.seed != 0 && (attributes.programmatic || runtime.holds_back);
    if (attributes.programmatic && runtime.seed != 0)
      operation.start_early = start_early(runtime, grid, runtime.seed, resident);
    enqueue(runtime, lock, *stream, std::move(operation));
    return runtime.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

}  // namespace simt

using simt::Lock;
using simt::Runtime;

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    const std::pair key{simt::this_thread().device, kernel};
    if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
      if (value != 0)
        runtime.large_clusters.insert(key);
      else
        runtime.large_clusters.erase(key);
      return cudaSuccess;
    }
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorNotSupported;
    simt::SharedMemory shared;
    if (const cudaError_t error = find_shared_memory(runtime, kernel, shared)) return error;
    if (value < 0 ||
        std::cmp_greater(shared.static_bytes + value, runtime.limits.shared_per_block_optin))
      return cudaErrorInvalidValue;
    runtime.dynamic_shared[key] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    simt::SharedMemory shared;
    if (const cudaError_t error = find_shared_memory(runtime, kernel, shared)) return error;
    *attributes = {};
    attributes->sharedSizeBytes = static_cast<std::size_t>(shared.static_bytes);
    attributes->maxThreadsPerBlock = runtime.limits.threads_per_block;
    attributes->maxDynamicSharedSizeBytes = static_cast<int>(shared.most_dynamic_bytes);
    attributes->binaryVersion = runtime.limits.major * 10 + runtime.limits.minor;
    attributes->ptxVersion = attributes->binaryVersion;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel,
                                                                   int threads,
                                                                   std::size_t dynamic_bytes,
                                                                   unsigned) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (threads <= 0) return cudaErrorInvalidValue;
    simt::SharedMemory shared;
    if (const cudaError_t error = find_shared_memory(runtime, kernel, shared)) return error;
    *blocks = 0;
    if (std::cmp_less_equal(dynamic_bytes, shared.most_dynamic_bytes))
      *blocks =
          simt::blocks_per_sm(runtime.limits, static_cast<std::uint64_t>(threads),
                              static_cast<std::uint64_t>(shared.static_bytes) + dynamic_bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel,
                                                          int threads, std::size_t dynamic_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads,
                                                                dynamic_bytes, 0);
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel,
                                           const cudaLaunchConfig_t* config) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    simt::Attributes attributes;
    if (const cudaError_t error = read_attributes(runtime.limits, *config, attributes))
      return error;
    simt::SharedMemory shared;
    if (const cudaError_t error = find_shared_memory(runtime, kernel, shared)) return error;
    *clusters = 0;
    if (std::cmp_greater(config->dynamicSmemBytes, shared.most_dynamic_bytes)) return cudaSuccess;
    const int resident = simt::blocks_per_sm(
        runtime.limits, simt::product(config->blockDim),
        static_cast<std::uint64_t>(shared.static_bytes) + config->dynamicSmemBytes);
    const simt::Grid grid{config->gridDim, config->blockDim,   config->dynamicSmemBytes,
                          false,           attributes.cluster, nullptr};
    if (const cudaError_t error = simt::check_cluster(runtime, kernel, grid, resident))
      return resident == 0 ? cudaSuccess : error;
    *clusters = simt::active_clusters(runtime.limits, attributes.cluster, resident);
    return cudaSuccess;
  });
}
