// Vectors with one value per channel, in any of their dtypes, read and written as float64.
#pragma once

#include <cstdint>

#include "backend/cuda/device/pack.cuh"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

__device__ inline double load(const syncnorm_vector& vector, std::int64_t i) {
  switch (vector.dtype) {
    case SYNCNORM_FLOAT16: return to_arithmetic(static_cast<const __half*>(vector.data)[i]);
    case SYNCNORM_BFLOAT16: return to_arithmetic(static_cast<const __nv_bfloat16*>(vector.data)[i]);
    case SYNCNORM_FLOAT32: return static_cast<const float*>(vector.data)[i];
    case SYNCNORM_FLOAT64: break;
  }
  return static_cast<const double*>(vector.data)[i];
}

__device__ inline double load_or(const syncnorm_vector& vector, std::int64_t i, double absent) {
  return vector.data == nullptr ? absent : load(vector, i);
}

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
