// Part of syncbn.hpp: a failure becomes an exception, or a Status of the caller's.
#ifndef SYNCBN_ERRORS_HPP_
#define SYNCBN_ERRORS_HPP_

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "syncbn.h"

// Where exceptions are off every call needs its Status. What is inline then differs, so it has
// names of its own: a program may be linked of both kinds.
#if defined(__cpp_exceptions)
#define SYNCBN_INLINE_NAMESPACE v0
#else
#define SYNCBN_INLINE_NAMESPACE v0_without_exceptions
#endif

namespace syncbn {
inline namespace SYNCBN_INLINE_NAMESPACE {

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

#if defined(__cpp_exceptions)
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
#endif

// The outcome of a call that was given it; each call begins by making it ok.
class Status {
 public:
  bool ok() const noexcept { return code_ == SYNCBN_OK; }
  syncbn_status code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }  // "" where ok

 private:
  friend class OnError;
  syncbn_status code_ = SYNCBN_OK;
  std::string message_;
};

// The last parameter of every function that can fail. Left out, failures are thrown; given a
// Status, they are told there, nothing is thrown, and what the function returns is empty.
class OnError {
 public:
#if defined(__cpp_exceptions)
  OnError() noexcept = default;
#else
  template <bool kExceptions = false>
  OnError() {
    static_assert(kExceptions, "without exceptions the last argument must be a syncbn::Status");
  }
#endif
  OnError(Status& status) : status_(&status) { status = Status(); }

  // Whether nothing has failed so far.
  bool good() const noexcept { return status_ == nullptr || status_->ok(); }

  // The first failure of a call stays.
  void fail(syncbn_status code, std::string message) const {
#if defined(__cpp_exceptions)
    if (status_ == nullptr) throw_status(code, message);
#endif
    if (!status_->ok()) return;
    status_->code_ = code;
    status_->message_ = std::move(message);
  }

  // For what a C function has returned in this thread.
  void check(syncbn_status code) const {
    if (code != SYNCBN_OK) fail(code, syncbn_last_error());
  }

  // For what a function of the trainer's threw on its way through the library, which became `code`.
  void fail(syncbn_status code, const std::exception_ptr& thrown) const {
#if defined(__cpp_exceptions)
    if (status_ == nullptr) std::rethrow_exception(thrown);
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      fail(code, exception.what());
    } catch (...) {
      fail(code, syncbn_last_error());
    }
#else
    static_cast<void>(thrown);
    check(code);
#endif
  }

 private:
  Status* status_ = nullptr;
};

}  // namespace SYNCBN_INLINE_NAMESPACE
}  // namespace syncbn

#endif  // SYNCBN_ERRORS_HPP_
