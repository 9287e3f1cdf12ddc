// The one table of what is supported: per dtype of x, which parameter dtypes, and the arithmetic.
#pragma once

#include <array>
#include <cstddef>

#include "syncbn/syncbn.h"

namespace syncbn {

struct DtypeSupport {
  syncbn_dtype dtype;
  const char* name;
  std::size_t size;                // bytes of one value
  std::array<bool, 4> parameters;  // indexed by syncbn_dtype
  syncbn_dtype arithmetic;         // also the precision of invstd
  const char* parameter_names;     // for messages
};

inline constexpr std::array<DtypeSupport, 4> kDtypes{{
    {SYNCBN_FLOAT16,
     "float16",
     2,
     {true, true, true, false},
     SYNCBN_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCBN_BFLOAT16,
     "bfloat16",
     2,
     {true, true, true, false},
     SYNCBN_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCBN_FLOAT32,
     "float32",
     4,
     {true, true, true, false},
     SYNCBN_FLOAT32,
     "float16, bfloat16 or float32"},
    {SYNCBN_FLOAT64,
     "float64",
     8,
     {false, false, true, true},
     SYNCBN_FLOAT64,
     "float32 or float64"},
}};

constexpr bool is_dtype(syncbn_dtype dtype) {
  return static_cast<unsigned>(dtype) < kDtypes.size();
}

constexpr const DtypeSupport& support_of(syncbn_dtype dtype) {
  return kDtypes[static_cast<std::size_t>(dtype)];
}

}  // namespace syncbn
