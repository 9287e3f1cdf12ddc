// The one table of what is supported: per dtype of x, which parameter dtypes, and the arithmetic.
#pragma once

#include <array>
#include <cstddef>

#include "syncnorm/syncnorm.h"

namespace syncnorm {

struct DtypeSupport {
  syncnorm_dtype dtype;
  const char* name;
  std::size_t size;                // bytes of one value
  std::array<bool, 4> parameters;  // indexed by syncnorm_dtype
  syncnorm_dtype arithmetic;       // also the precision of invstd
  const char* parameter_names;     // for messages
};

inline constexpr std::array<DtypeSupport, 4> kDtypes{{
    {SYNCNORM_FLOAT16,
     "float16",
     2,
     {true, true, true, false},
     SYNCNORM_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCNORM_BFLOAT16,
     "bfloat16",
     2,
     {true, true, true, false},
     SYNCNORM_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCNORM_FLOAT32,
     "float32",
     4,
     {true, true, true, false},
     SYNCNORM_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCNORM_FLOAT64,
     "float64",
     8,
     {false, false, true, true},
     SYNCNORM_FLOAT64,
     "float32 or float64"},
}};

constexpr bool is_dtype(syncnorm_dtype dtype) {
  return static_cast<unsigned>(dtype) < kDtypes.size();
}

constexpr const DtypeSupport& support_of(syncnorm_dtype dtype) {
  return kDtypes[static_cast<std::size_t>(dtype)];
}

}  // namespace syncnorm
