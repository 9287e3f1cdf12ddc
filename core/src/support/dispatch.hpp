// From a dtype known at run time to a type known to the compiler.
#pragma once

#include "math/float16.hpp"
#include "support/error.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

template <class T>
struct TypeTag {
  using Type = T;
};

// Calls visit(TypeTag<T>{}) with the storage type of dtype.
template <class Visit>
decltype(auto) dispatch_dtype(syncbn_dtype dtype, Visit&& visit) {
  switch (dtype) {
    case SYNCBN_FLOAT16: return visit(TypeTag<Half>{});
    case SYNCBN_BFLOAT16: return visit(TypeTag<BFloat16>{});
    case SYNCBN_FLOAT32: return visit(TypeTag<float>{});
    case SYNCBN_FLOAT64: return visit(TypeTag<double>{});
  }
  fail(SYNCBN_INTERNAL, "dtype ", static_cast<int>(dtype), " reached dispatch; validate missed it");
}

}  // namespace syncbn
