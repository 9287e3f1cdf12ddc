// A CUDA device as the backend contract sees it: a real one, or the simulated one of tests/simt.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "backend_contract.hpp"
#ifdef SYNCNORM_SIMT
#include "simt.hpp"
#endif

namespace contract {

inline void require_cuda(cudaError_t error) {
  INFO(std::string(cudaGetErrorString(error)));
  REQUIRE(error == cudaSuccess);
}

// Does not wait for the default stream.
class CudaStream {
 public:
  CudaStream() { require_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~CudaStream() { (void)cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// What `work` enqueues on `stream`, to be launched any number of times.
class CudaGraph {
 public:
  template <class Work>
  CudaGraph(cudaStream_t stream, Work&& work) {
    require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    require_cuda(cudaStreamEndCapture(stream, &graph_));
    require_cuda(cudaGraphInstantiate(&executable_, graph_, 0));
  }
  ~CudaGraph() {
    if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) (void)cudaGraphDestroy(graph_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void launch(cudaStream_t stream) const { require_cuda(cudaGraphLaunch(executable_, stream)); }
  // Kernels, memsets and copies.
  std::size_t nodes() const {
    std::size_t count = 0;
    require_cuda(cudaGraphGetNodes(graph_, nullptr, &count));
    return count;
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaDevice final : public Device {
 public:
#ifdef SYNCNORM_SIMT
  // Holds as many blocks of 256 threads as an H200, so that a block has one item of most tensors:
  // here registers do not limit them to two per SM.
  CudaDevice() {
    simt::Limits limits;
    limits.sms = 33;
    simt::set_limits(limits);
    simt::hold_back_kernels(true);
  }
  void before_phases() override { simt::reset_dependent_loads(); }
  // In any block of any kernel: what is loaded together counts once.
  void after_phases() override {
    require_cuda(cudaDeviceSynchronize());
    CHECK(simt::dependent_loads() <= 10);
  }
#endif
  syncnorm_device kind() const override { return SYNCNORM_CUDA; }
  void* stream() const override { return stream_.get(); }

  std::shared_ptr<void> allocate(std::size_t bytes) override {
    void* memory = nullptr;
    require_cuda(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)));
    return {memory, [](void* given) { (void)cudaFree(given); }};
  }
  void upload(void* to, const void* from, std::size_t bytes) override {
    copy(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    require_cuda(cudaDeviceSynchronize());
    copy(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  // compute-sanitizer's initcheck is to see every read of what no kernel has written.
  void fill_with_garbage(void* memory, std::size_t bytes) override {
    if (std::getenv("SYNCNORM_TEST_INITCHECK") == nullptr) Device::fill_with_garbage(memory, bytes);
  }

 private:
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    require_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()));
    require_cuda(cudaStreamSynchronize(stream_.get()));
  }

  CudaStream stream_;
};

// Never destroyed: when the process exits there may be no runtime to give memory back to.
inline CudaDevice& cuda_device() {
  static CudaDevice& device = *new CudaDevice;
  return device;
}

}  // namespace contract
