// Values on their way from global memory: loaded early, waited for where they are used.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace syncnorm::cuda {

// On a device a plain value: the hardware waits at the first use. The simulated devices of
// tests/simt count here how many loads of a block wait for one another.
template <class T>
class InFlight {
 public:
  InFlight() = default;
  __device__ __forceinline__ explicit InFlight(const T* p) { load(p); }

  __device__ __forceinline__ void load(const T* p) { set(*p); }
  // From the L2 cache, which all blocks share.
  __device__ __forceinline__ void load_shared(const T* p) {
#ifdef SYNCNORM_SIMT
    set(*p);
#else
    set(__ldcg(p));
#endif
  }
  // What was put together from several loads.
  __device__ __forceinline__ void set(const T& value) {
    value_ = value;
#ifdef SYNCNORM_SIMT
    arrives_ = simt::issue_load();
#endif
  }
  __device__ __forceinline__ const T& get() const {
#ifdef SYNCNORM_SIMT
    simt::await_load(arrives_);
#endif
    return value_;
  }

 private:
  T value_;
#ifdef SYNCNORM_SIMT
  std::uint32_t arrives_;
#endif
};

}  // namespace syncnorm::cuda
