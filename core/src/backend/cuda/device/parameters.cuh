// Vectors with one value per channel, in any of their dtypes, read and written as float64.
#pragma once

#include <cstdint>

#include "backend/cuda/device/in_flight.cuh"
#include "backend/cuda/device/pack.cuh"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

// A value of a vector on its way: it is converted where it is used, so that several are under way
// at a time.
class Parameter {
 public:
  __device__ __forceinline__ Parameter(const syncnorm_vector& vector, std::int64_t i)
      : dtype_(vector.dtype), present_(vector.data != nullptr) {
    if (!present_)
      bits_.set(0);
    else if (dtype_ == SYNCNORM_FLOAT64)
      bits_.set(static_cast<const std::uint64_t*>(vector.data)[i]);
    else if (dtype_ == SYNCNORM_FLOAT32)
      bits_.set(static_cast<const std::uint32_t*>(vector.data)[i]);
    else
      bits_.set(static_cast<const std::uint16_t*>(vector.data)[i]);
  }

  __device__ __forceinline__ double value() const {
    const std::uint64_t bits = bits_.get();
    switch (dtype_) {
      case SYNCNORM_FLOAT16: return to_arithmetic(from_bits<__half>(bits));
      case SYNCNORM_BFLOAT16: return to_arithmetic(from_bits<__nv_bfloat16>(bits));
      case SYNCNORM_FLOAT32: return from_bits<float>(bits);
      case SYNCNORM_FLOAT64: break;
    }
    return from_bits<double>(bits);
  }
  __device__ __forceinline__ double value_or(double absent) const {
    return present_ ? value() : absent;
  }

 private:
  template <class T>
  __device__ __forceinline__ static T from_bits(std::uint64_t bits) {
    T value;
    memcpy(static_cast<void*>(&value), &bits, sizeof(value));  // little-endian, as all of CUDA
    return value;
  }

  InFlight<std::uint64_t> bits_;
  syncnorm_dtype dtype_;
  bool present_;
};

__device__ inline void store(const syncnorm_vector& vector, std::int64_t i, double value) {
  const auto single = static_cast<float>(value);
  switch (vector.dtype) {
    case SYNCNORM_FLOAT16:
      static_cast<__half*>(vector.data)[i] = from_arithmetic<__half>(single);
      return;
    case SYNCNORM_BFLOAT16:
      static_cast<__nv_bfloat16*>(vector.data)[i] = from_arithmetic<__nv_bfloat16>(single);
      return;
    case SYNCNORM_FLOAT32: static_cast<float*>(vector.data)[i] = single; return;
    case SYNCNORM_FLOAT64: break;
  }
  static_cast<double*>(vector.data)[i] = value;
}

}  // namespace syncnorm::cuda
