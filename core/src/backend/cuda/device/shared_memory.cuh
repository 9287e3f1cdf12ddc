// The dynamic shared memory of a block, divided in order.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace syncnorm::cuda {

constexpr std::size_t kSharedAlignment = 16;

__host__ __device__ constexpr std::size_t shared_bytes(std::size_t count, std::size_t size) {
  return (count * size + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
}

class SharedMemory {
 public:
#ifdef SYNCNORM_SIMT
  __device__ SharedMemory() : next_(static_cast<unsigned char*>(simt::dynamic_shared())) {}
#else
  __device__ SharedMemory() {
    extern __shared__ uint4 dynamic_shared[];
    next_ = reinterpret_cast<unsigned char*>(dynamic_shared);
  }
#endif

  template <class T>
  __device__ T* take(std::size_t count) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += shared_bytes(count, sizeof(T));
    return taken;
  }

 private:
  unsigned char* next_;
};

}  // namespace syncnorm::cuda
