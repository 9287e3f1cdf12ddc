// Launches: what a real device would refuse is refused.
#include <algorithm>
#include <span>

#include "engine/grid.hpp"
#include "runtime/stream.hpp"
#include "simt/launch.hpp"

namespace simt {
namespace {

std::uint64_t product(const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }

int dynamic_shared_allowed(const Runtime& runtime, const void* kernel) {
  const auto found = runtime.dynamic_shared.find({this_thread().device, kernel});
  return found == runtime.dynamic_shared.end() ? static_cast<int>(runtime.limits.shared_per_block)
                                               : found->second;
}

int blocks_per_sm(const Limits& limits, std::uint64_t threads, std::size_t dynamic_bytes) {
  constexpr std::size_t kReserved = 1 << 10;  // by the system, of every block's shared memory
  constexpr std::uint64_t kWarpThreads = 32;
  if (threads == 0 || threads > static_cast<std::uint64_t>(limits.threads_per_block)) return 0;
  const std::uint64_t rounded = (threads + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  const auto by_threads = static_cast<std::uint64_t>(limits.threads_per_sm) / rounded;
  const std::uint64_t by_shared = limits.shared_per_sm / (dynamic_bytes + kReserved);
  const auto most = static_cast<std::uint64_t>(limits.blocks_per_sm);
  return static_cast<int>(std::min({by_threads, by_shared, most}));
}

struct Attributes {
  bool cooperative = false;
  bool programmatic = false;  // programmatic dependent launch
};

cudaError_t read_attributes(const Limits& limits, const cudaLaunchConfig_t& config,
                            Attributes& read) {
  for (const cudaLaunchAttribute& attribute : std::span(config.attrs, config.numAttrs)) {
    switch (attribute.id) {
      case cudaLaunchAttributeIgnore: break;
      case cudaLaunchAttributeCooperative: read.cooperative = attribute.val.cooperative != 0; break;
      case cudaLaunchAttributeProgrammaticStreamSerialization:
        read.programmatic = attribute.val.programmaticStreamSerializationAllowed != 0;
        break;
      default: return cudaErrorNotSupported;
    }
  }
  return read.programmatic && limits.major < 9 ? cudaErrorNotSupported : cudaSuccess;
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

cudaError_t check_cooperative(const Limits& limits, const Grid& grid) {
  if (!limits.cooperative) return cudaErrorNotSupported;
  const int resident = blocks_per_sm(limits, product(grid.threads), grid.dynamic_bytes);
  if (product(grid.blocks) > static_cast<std::uint64_t>(resident) * limits.sms)
    return cudaErrorCooperativeLaunchTooLarge;
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
    Grid grid{config->gridDim, config->blockDim, config->dynamicSmemBytes, attributes.cooperative,
              std::move(thread)};
    if (const cudaError_t error = check_shape(runtime.limits, grid.blocks, grid.threads))
      return error;
    if (std::cmp_greater(grid.dynamic_bytes, dynamic_shared_allowed(runtime, kernel)))
      return cudaErrorInvalidValue;
    if (grid.cooperative)
      if (const cudaError_t error = check_cooperative(runtime.limits, grid)) return error;
    ++runtime.counts.kernels;
    Operation operation{whole(runtime, grid, runtime.seed)};
    if (attributes.programmatic && runtime.seed != 0)
      operation.start_early =
          start_early(runtime, grid, runtime.seed,
                      blocks_per_sm(runtime.limits, product(grid.threads), grid.dynamic_bytes));
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
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorNotSupported;
    if (value < 0 || std::cmp_greater(value, runtime.limits.shared_per_block_optin))
      return cudaErrorInvalidValue;
    runtime.dynamic_shared[{simt::this_thread().device, kernel}] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    *attributes = {};
    attributes->maxThreadsPerBlock = runtime.limits.threads_per_block;
    attributes->maxDynamicSharedSizeBytes = simt::dynamic_shared_allowed(runtime, kernel);
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
    const bool allowed =
        std::cmp_less_equal(dynamic_bytes, simt::dynamic_shared_allowed(runtime, kernel));
    *blocks = allowed ? simt::blocks_per_sm(runtime.limits, static_cast<std::uint64_t>(threads),
                                            dynamic_bytes)
                      : 0;
    return cudaSuccess;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel,
                                                          int threads, std::size_t dynamic_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads,
                                                                dynamic_bytes, 0);
}
