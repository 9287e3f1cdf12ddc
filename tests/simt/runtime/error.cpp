// The last error of a thread, and errors in words.
#include <string>
#include <utility>

#include "runtime/runtime.hpp"

cudaError_t cudaGetLastError() {
  cudaError_t& last = simt::this_thread().last_error;
  return std::exchange(last, simt::fault().empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t cudaPeekAtLastError() { return simt::this_thread().last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define SIMT_NAME(name) \
  case name: return #name
    SIMT_NAME(cudaSuccess);
    SIMT_NAME(cudaErrorInvalidValue);
    SIMT_NAME(cudaErrorMemoryAllocation);
    SIMT_NAME(cudaErrorInitializationError);
    SIMT_NAME(cudaErrorCudartUnloading);
    SIMT_NAME(cudaErrorInvalidConfiguration);
    SIMT_NAME(cudaErrorInsufficientDriver);
    SIMT_NAME(cudaErrorDevicesUnavailable);
    SIMT_NAME(cudaErrorNoDevice);
    SIMT_NAME(cudaErrorInvalidDevice);
    SIMT_NAME(cudaErrorNoKernelImageForDevice);
    SIMT_NAME(cudaErrorInvalidResourceHandle);
    SIMT_NAME(cudaErrorIllegalState);
    SIMT_NAME(cudaErrorNotReady);
    SIMT_NAME(cudaErrorIllegalAddress);
    SIMT_NAME(cudaErrorLaunchOutOfResources);
    SIMT_NAME(cudaErrorLaunchFailure);
    SIMT_NAME(cudaErrorCooperativeLaunchTooLarge);
    SIMT_NAME(cudaErrorNotSupported);
    SIMT_NAME(cudaErrorStreamCaptureUnsupported);
    SIMT_NAME(cudaErrorStreamCaptureInvalidated);
    SIMT_NAME(cudaErrorStreamCaptureMerge);
    SIMT_NAME(cudaErrorStreamCaptureUnmatched);
    SIMT_NAME(cudaErrorStreamCaptureUnjoined);
    SIMT_NAME(cudaErrorStreamCaptureIsolation);
    SIMT_NAME(cudaErrorCapturedEvent);
    SIMT_NAME(cudaErrorStreamCaptureWrongThread);
    SIMT_NAME(cudaErrorInvalidClusterSize);
    SIMT_NAME(cudaErrorUnknown);
#undef SIMT_NAME
    default: return "unrecognized error code";
  }
}

// The name in place of the real library's words; where a kernel failed, what it did wrong.
const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaErrorLaunchFailure) return cudaGetErrorName(error);
  static thread_local std::string text;
  text = "unspecified launch failure: " + simt::fault();
  return text.c_str();
}
