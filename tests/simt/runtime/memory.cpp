// Memory of the devices: the host's, full of garbage when it is new.
#include <cstdlib>
#include <cstring>

#include "engine/shared_variables.hpp"
#include "runtime/stream.hpp"

using simt::Lock;
using simt::Runtime;

namespace {

constexpr int kHost = -1;
constexpr std::size_t kAlignment = 256;

cudaError_t allocate(Runtime& runtime, void** memory, std::size_t bytes, int device) {
  if (memory == nullptr) return cudaErrorInvalidValue;
  if (const cudaError_t error = check_not_capturing(runtime)) return error;
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (posix_memalign(memory, kAlignment, bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*memory, simt::kGarbage, bytes);
  runtime.allocations[*memory] = {bytes, device};
  return cudaSuccess;
}

cudaError_t release(Runtime& runtime, void* memory, bool of_host) {
  if (const cudaError_t error = check_not_capturing(runtime)) return error;
  if (memory == nullptr) return cudaSuccess;
  const auto found = runtime.allocations.find(memory);
  if (found == runtime.allocations.end() || (found->second.device == kHost) != of_host)
    return cudaErrorInvalidValue;
  runtime.allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t copy(Runtime& runtime, Lock& lock, void* to, const void* from, std::size_t bytes,
                 cudaStream_t handle) {
  const auto stream = simt::find_stream(runtime, handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (bytes != 0 && (to == nullptr || from == nullptr)) return cudaErrorInvalidValue;
  ++runtime.counts.copies;
  enqueue(runtime, lock, *stream, {[=] {
            if (bytes != 0) std::memcpy(to, from, bytes);
          }});
  return cudaSuccess;
}

cudaError_t fill(Runtime& runtime, Lock& lock, void* to, int value, std::size_t bytes,
                 cudaStream_t handle) {
  const auto stream = simt::find_stream(runtime, handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (bytes != 0 && to == nullptr) return cudaErrorInvalidValue;
  ++runtime.counts.memsets;
  enqueue(runtime, lock, *stream, {[=] {
            if (bytes != 0) std::memset(to, value, bytes);
          }});
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    return allocate(runtime, memory, bytes, simt::this_thread().device);
  });
}

cudaError_t cudaFree(void* memory) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    while (run_rests(runtime, lock)) {
    }
    return release(runtime, memory, false);
  });
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return simt::call(
      __func__, [&](Runtime& runtime, Lock&) { return allocate(runtime, memory, bytes, kHost); });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* memory) {
  return simt::call(__func__,
                    [&](Runtime& runtime, Lock&) { return release(runtime, memory, true); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    *attributes = {};
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->device = -1;
    auto found = runtime.allocations.upper_bound(pointer);
    if (found == runtime.allocations.begin()) return cudaSuccess;
    const auto& [begin, allocation] = *--found;
    if (static_cast<const char*>(pointer) >= static_cast<const char*>(begin) + allocation.bytes)
      return cudaSuccess;
    const bool on_host = allocation.device == kHost;
    attributes->type = on_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = on_host ? 0 : allocation.device;
    attributes->devicePointer = const_cast<void*>(pointer);
    attributes->hostPointer = on_host ? const_cast<void*>(pointer) : nullptr;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    return copy(runtime, lock, to, from, bytes, stream);
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    const cudaError_t error = copy(runtime, lock, to, from, bytes, nullptr);
    wait_until_idle(runtime, lock, *simt::find_stream(runtime, nullptr));
    return error;
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    return fill(runtime, lock, to, value, bytes, stream);
  });
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    return fill(runtime, lock, to, value, bytes, nullptr);
  });
}
