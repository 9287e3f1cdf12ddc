// Part of syncbn.hpp: statuses become exceptions.
#ifndef SYNCBN_ERRORS_HPP_
#define SYNCBN_ERRORS_HPP_

#include <stdexcept>
#include <string>

#include "syncbn.h"

namespace syncbn {
inline namespace v0 {

class Error : public std::runtime_error {
 public:
  Error(syncbn_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  syncbn_status status() const noexcept { return status_; }

 private:
  syncbn_status status_;
};

template <syncbn_status Status>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(Status, message) {}
};

using InvalidArgument = ErrorOf<SYNCBN_INVALID_ARGUMENT>;
using Unsupported = ErrorOf<SYNCBN_UNSUPPORTED>;
using CudaError = ErrorOf<SYNCBN_CUDA_ERROR>;
using NcclError = ErrorOf<SYNCBN_NCCL_ERROR>;
using Desync = ErrorOf<SYNCBN_DESYNC>;
using Timeout = ErrorOf<SYNCBN_TIMEOUT>;
using OutOfMemory = ErrorOf<SYNCBN_OUT_OF_MEMORY>;
using InternalError = ErrorOf<SYNCBN_INTERNAL>;

[[noreturn]] inline void throw_status(syncbn_status status, const std::string& message) {
  switch (status) {
    case SYNCBN_INVALID_ARGUMENT: throw InvalidArgument(message);
    case SYNCBN_UNSUPPORTED: throw Unsupported(message);
    case SYNCBN_CUDA_ERROR: throw CudaError(message);
    case SYNCBN_NCCL_ERROR: throw NcclError(message);
    case SYNCBN_DESYNC: throw Desync(message);
    case SYNCBN_TIMEOUT: throw Timeout(message);
    case SYNCBN_OUT_OF_MEMORY: throw OutOfMemory(message);
    case SYNCBN_INTERNAL: throw InternalError(message);
    case SYNCBN_OK: break;
  }
  throw Error(status, message);
}

// Throws what the C function that returned `status` in this thread has to say.
inline void require_ok(syncbn_status status) {
  if (status != SYNCBN_OK) throw_status(status, syncbn_last_error());
}

}  // namespace v0
}  // namespace syncbn

#endif  // SYNCBN_ERRORS_HPP_
