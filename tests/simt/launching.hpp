// Launches and device memory, for the harness's tests.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "doctest/doctest.h"
#include "simt.hpp"

namespace simt_test {

inline void require(cudaError_t error) {
  INFO(cudaGetErrorString(error));
  REQUIRE(error == cudaSuccess);
}

struct Shape {
  dim3 grid = 1;
  dim3 block = 32;
  std::size_t dynamic_bytes = 0;
  cudaStream_t stream = nullptr;
  bool cooperative = false;
  bool programmatic = false;  // programmatic dependent launch
  dim3 cluster = 1;
};

template <class... Parameters, class... Arguments>
cudaError_t launch(const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = shape.cooperative;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = shape.programmatic;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.dynamic_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  config.numAttrs = 3;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Device memory, which the host can read because it is the host's.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count, int byte = 0) : count_(count) {
    require(cudaMalloc(&data_, count * sizeof(T)));
    require(cudaMemset(data_, byte, count * sizeof(T)));
  }
  ~Buffer() { (void)cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  std::vector<T> values() const { return {data_, data_ + count_}; }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

class StreamOwner {
 public:
  StreamOwner() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~StreamOwner() { (void)cudaStreamDestroy(stream_); }
  StreamOwner(const StreamOwner&) = delete;
  StreamOwner& operator=(const StreamOwner&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class EventOwner {
 public:
  EventOwner() { require(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~EventOwner() { (void)cudaEventDestroy(event_); }
  EventOwner(const EventOwner&) = delete;
  EventOwner& operator=(const EventOwner&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace simt_test
