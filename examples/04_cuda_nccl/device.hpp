// What the trainer has on a device before it normalizes anything: failures as exceptions, handles
// that end themselves, memory.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

inline void require_ok(cudaError_t result) {
  if (result != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(result));
  }
}

inline void require_ok(ncclResult_t result) {
  if (result != ncclSuccess) {
    throw std::runtime_error(std::string("NCCL: ") + ncclGetErrorString(result) + ": " +
                             ncclGetLastError(nullptr));
  }
}

template <auto destroy>
struct Destroy {
  template <class Object>
  void operator()(Object* handle) const noexcept {
    static_cast<void>(destroy(handle));
  }
};
template <class Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using CapturedGraph = Owned<cudaGraph_t, cudaGraphDestroy>;
using Graph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using NcclComm = Owned<ncclComm_t, ncclCommDestroy>;

// The trainer's allocator: blocks of one large allocation, which live as long as it. Once it is
// made nothing is allocated, so that a step can be captured.
// [doc: arena]
class Arena {
 public:
  explicit Arena(std::size_t size) : size_(size) {
    void* memory = nullptr;
    require_ok(cudaMalloc(&memory, size));
    memory_.reset(static_cast<std::byte*>(memory));
  }

  // syncnorm wants 64 bytes for its workspace; 256 suit every vectorized load.
  template <class T>
  T* take(std::size_t count) {
    const std::size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > size_ - used_) throw std::bad_alloc();
    void* block = memory_.get() + used_;
    used_ += bytes;
    return static_cast<T*>(block);
  }

 private:
  static constexpr std::size_t kAlignment = 256;
  std::unique_ptr<std::byte, Destroy<cudaFree>> memory_;
  std::size_t size_;
  std::size_t used_ = 0;
};
// [end]

// A stream that does not wait for the default stream of whatever else is in the process.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  require_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

// Collective. The current device becomes rank `rank`.
inline NcclComm make_nccl(const ncclUniqueId& id, int rank, int size) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm = nullptr;
  require_ok(ncclCommInitRankConfig(&comm, size, id, rank, &config));
  return NcclComm(comm);
}

template <class T>
void upload(const std::vector<T>& from, T* to, cudaStream_t stream) {
  require_ok(
      cudaMemcpyAsync(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, stream));
}

template <class T>
void download(const T* from, std::vector<T>& to, cudaStream_t stream) {
  require_ok(
      cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T), cudaMemcpyDeviceToHost, stream));
}
