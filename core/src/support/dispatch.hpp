// From a dtype known at run time to a type known to the compiler.
#pragma once

#include "math/float16.hpp"
#include "support/error.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

template <class T>
struct TypeTag {
  using Type = T;
};

// Calls visit(TypeTag<T>{}) with the storage type of dtype.
template <class Visit>
decltype(auto) dispatch_dtype(syncnorm_dtype dtype, Visit&& visit) {
  switch (dtype) {
    case SYNCNORM_FLOAT16: return visit(TypeTag<Half>{});
    case SYNCNORM_BFLOAT16: return visit(TypeTag<BFloat16>{});
    case SYNCNORM_FLOAT32: return visit(TypeTag<float>{});
    case SYNCNORM_FLOAT64: return visit(TypeTag<double>{});
  }
  fail(SYNCNORM_INTERNAL, "dtype ", static_cast<int>(dtype),
       " reached dispatch; validate missed it");
}

}  // namespace syncnorm
