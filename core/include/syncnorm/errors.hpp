// Part of syncnorm.hpp: a failure becomes an exception, or a Status of the caller's.
#ifndef SYNCNORM_ERRORS_HPP_
#define SYNCNORM_ERRORS_HPP_

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "syncnorm.h"

// Where exceptions are off every call needs its Status. What is inline then differs, so it has
// names of its own: a program may be linked of both kinds.
#if defined(__cpp_exceptions)
#define SYNCNORM_INLINE_NAMESPACE v0
#else
#define SYNCNORM_INLINE_NAMESPACE v0_without_exceptions
#endif

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {

class Error : public std::runtime_error {
 public:
  Error(syncnorm_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  syncnorm_status status() const noexcept { return status_; }

 private:
  syncnorm_status status_;
};

template <syncnorm_status Status>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(Status, message) {}
};

using InvalidArgument = ErrorOf<SYNCNORM_INVALID_ARGUMENT>;
using Unsupported = ErrorOf<SYNCNORM_UNSUPPORTED>;
using CudaError = ErrorOf<SYNCNORM_CUDA_ERROR>;
using NcclError = ErrorOf<SYNCNORM_NCCL_ERROR>;
using Desync = ErrorOf<SYNCNORM_DESYNC>;
using Timeout = ErrorOf<SYNCNORM_TIMEOUT>;
using OutOfMemory = ErrorOf<SYNCNORM_OUT_OF_MEMORY>;
using InternalError = ErrorOf<SYNCNORM_INTERNAL>;
using RankLost = ErrorOf<SYNCNORM_RANK_LOST>;

#if defined(__cpp_exceptions)
[[noreturn]] inline void throw_status(syncnorm_status status, const std::string& message) {
  switch (status) {
    case SYNCNORM_INVALID_ARGUMENT: throw InvalidArgument(message);
    case SYNCNORM_UNSUPPORTED: throw Unsupported(message);
    case SYNCNORM_CUDA_ERROR: throw CudaError(message);
    case SYNCNORM_NCCL_ERROR: throw NcclError(message);
    case SYNCNORM_DESYNC: throw Desync(message);
    case SYNCNORM_TIMEOUT: throw Timeout(message);
    case SYNCNORM_OUT_OF_MEMORY: throw OutOfMemory(message);
    case SYNCNORM_INTERNAL: throw InternalError(message);
    case SYNCNORM_RANK_LOST: throw RankLost(message);
    case SYNCNORM_OK: break;
  }
  throw Error(status, message);
}

// Throws what the C function that returned `status` in this thread has to say.
inline void require_ok(syncnorm_status status) {
  if (status != SYNCNORM_OK) throw_status(status, syncnorm_last_error());
}
#endif

// The outcome of a call that was given it; each call begins by making it ok.
class Status {
 public:
  bool ok() const noexcept { return code_ == SYNCNORM_OK; }
  syncnorm_status code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }  // "" where ok

 private:
  friend class OnError;
  syncnorm_status code_ = SYNCNORM_OK;
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
    static_assert(kExceptions, "without exceptions the last argument must be a syncnorm::Status");
  }
#endif
  OnError(Status& status) : status_(&status) { status = Status(); }

  // Whether nothing has failed so far.
  bool good() const noexcept { return status_ == nullptr || status_->ok(); }

  // The first failure of a call stays.
  void fail(syncnorm_status code, std::string message) const {
#if defined(__cpp_exceptions)
    if (status_ == nullptr) throw_status(code, message);
#endif
    if (!status_->ok()) return;
    status_->code_ = code;
    status_->message_ = std::move(message);
  }

  // For what a C function has returned in this thread.
  void check(syncnorm_status code) const {
    if (code != SYNCNORM_OK) fail(code, syncnorm_last_error());
  }

  // For what a function of the trainer's threw on its way through the library, which became `code`.
  void fail(syncnorm_status code, const std::exception_ptr& thrown) const {
#if defined(__cpp_exceptions)
    if (status_ == nullptr) std::rethrow_exception(thrown);
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
      fail(code, exception.what());
    } catch (...) {
      fail(code, syncnorm_last_error());
    }
#else
    static_cast<void>(thrown);
    check(code);
#endif
  }

 private:
  Status* status_ = nullptr;
};

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_ERRORS_HPP_
