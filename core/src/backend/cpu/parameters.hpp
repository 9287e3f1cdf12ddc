// Vectors with one value per channel, in any of their dtypes, read and written as float64.
#pragma once

#include <cstdint>

#include "support/dispatch.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cpu {

inline double to_double(double value) { return value; }
inline double to_double(float value) { return static_cast<double>(value); }
inline double to_double(Half value) { return static_cast<double>(to_float(value)); }
inline double to_double(BFloat16 value) { return static_cast<double>(to_float(value)); }

inline void assign(double& to, double value) { to = value; }
inline void assign(float& to, double value) { to = static_cast<float>(value); }
inline void assign(Half& to, double value) { to = to_half(static_cast<float>(value)); }
inline void assign(BFloat16& to, double value) { to = to_bfloat16(static_cast<float>(value)); }

inline double load(const syncnorm_vector& vector, std::int64_t i) {
  return dispatch_dtype(vector.dtype, [&](auto tag) {
    return to_double(static_cast<const typename decltype(tag)::Type*>(vector.data)[i]);
  });
}

inline double load_or(const syncnorm_vector& vector, std::int64_t i, double absent) {
  return vector.data == nullptr ? absent : load(vector, i);
}

inline void store(const syncnorm_vector& vector, std::int64_t i, double value) {
  dispatch_dtype(vector.dtype, [&](auto tag) {
    assign(static_cast<typename decltype(tag)::Type*>(vector.data)[i], value);
  });
}

}  // namespace syncnorm::cpu
