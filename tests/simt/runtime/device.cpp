// Devices: all alike.
#include <algorithm>
#include <cstring>

#include "runtime/stream.hpp"

using simt::Limits;
using simt::Lock;
using simt::Runtime;

namespace {

bool exists(const Runtime& runtime, int device) {
  return device >= 0 && device < runtime.device_count;
}

cudaError_t attribute_of(const Limits& limits, cudaDeviceAttr attribute, int& value) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: value = limits.sms; break;
    case cudaDevAttrMaxThreadsPerBlock: value = limits.threads_per_block; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: value = limits.threads_per_sm; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: value = limits.blocks_per_sm; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      value = static_cast<int>(limits.shared_per_block);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      value = static_cast<int>(limits.shared_per_block_optin);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      value = static_cast<int>(limits.shared_per_sm);
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock: value = 1 << 10; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
    case cudaDevAttrMaxRegistersPerBlock: value = 1 << 16; break;
    case cudaDevAttrL2CacheSize: value = static_cast<int>(limits.l2); break;
    case cudaDevAttrComputeCapabilityMajor: value = limits.major; break;
    case cudaDevAttrComputeCapabilityMinor: value = limits.minor; break;
    case cudaDevAttrClusterLaunch: value = limits.major >= 9; break;
    case cudaDevAttrCooperativeLaunch: value = limits.cooperative; break;
    case cudaDevAttrWarpSize: value = 32; break;
    case cudaDevAttrMaxGridDimX: value = 0x7fff'ffff; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: value = 0xffff; break;
    default: return cudaErrorNotSupported;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    *count = runtime.device_count;
    return runtime.device_count == 0 ? cudaErrorNoDevice : cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (!exists(runtime, device)) return cudaErrorInvalidDevice;
    simt::this_thread().device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    *device = simt::this_thread().device;
    return runtime.device_count == 0 ? cudaErrorNoDevice : cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return simt::call(__func__, [&](Runtime& runtime, Lock&) {
    if (!exists(runtime, device)) return cudaErrorInvalidDevice;
    return attribute_of(runtime.limits, attribute, *value);
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return simt::call("cudaGetDeviceProperties", [&](Runtime& runtime, Lock&) {
    if (!exists(runtime, device)) return cudaErrorInvalidDevice;
    const Limits& limits = runtime.limits;
    *properties = {};
    std::strcpy(properties->name, "simulated device");
    properties->multiProcessorCount = limits.sms;
    properties->maxThreadsPerBlock = limits.threads_per_block;
    properties->maxThreadsPerMultiProcessor = limits.threads_per_sm;
    properties->maxBlocksPerMultiProcessor = limits.blocks_per_sm;
    properties->sharedMemPerBlock = limits.shared_per_block;
    properties->sharedMemPerBlockOptin = limits.shared_per_block_optin;
    properties->sharedMemPerMultiprocessor = limits.shared_per_sm;
    properties->l2CacheSize = static_cast<int>(limits.l2);
    properties->major = limits.major;
    properties->minor = limits.minor;
    properties->warpSize = 32;
    return cudaSuccess;
  });
}

// Waits for every stream of the device.
cudaError_t cudaDeviceSynchronize() {
  return simt::call(__func__, [&](Runtime& runtime, Lock& lock) {
    if (const cudaError_t error = check_not_capturing(runtime)) return error;
    const int device = simt::this_thread().device;
    const auto idle = [&](const auto& entry) {
      return entry.second->device != device || is_idle(*entry.second);
    };
    while (!std::ranges::all_of(runtime.streams, idle))
      if (!run_rests(runtime, lock)) runtime.changed.wait(lock);
    return runtime.fault.empty() ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  const Lock lock(Runtime::get().mutex);
  *version = Runtime::get().driver_version;
  return cudaSuccess;
}
