// The exception classes, and the conversion of a status of the C interface to an exception.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>
#include <sstream>
#include <string>

#include "gil.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

// Creates the exception classes and adds them to the module.
void bind_errors(nb::module_& module);

// Raises the class for `status`. Needs the GIL.
[[noreturn]] void raise(syncnorm_status status, const std::string& message);

// Raises ArgumentTypeError. Needs the GIL.
[[noreturn]] void raise_type(const std::string& message);

// Raises the exception that keep_exception kept in this thread, or, unless `status` is SYNCNORM_OK,
// the class for `status` with syncnorm_last_error(). Needs the GIL.
void check_status(syncnorm_status status);

// Keeps the exception of a callback or signal handler for the next check_status of this thread.
void keep_exception(std::exception_ptr exception) noexcept;

// "a", 1, "b" -> "a1b"
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Raises InvalidArgumentError. Message: what was got, what was expected, what to do.
template <class... Parts>
[[noreturn]] void fail_argument(const Parts&... parts) {
  raise(SYNCNORM_INVALID_ARGUMENT, concat(parts...));
}

// Raises ArgumentTypeError. The message has the same parts.
template <class... Parts>
[[noreturn]] void fail_type(const Parts&... parts) {
  raise_type(concat(parts...));
}

// Runs a call of the C interface without the GIL, and raises if it fails or a signal handler does.
template <class Call>
void run(Call&& call) {
  syncnorm_status status;
  {
    const SignalCheck signals;
    const ReleasedGil released;
    status = call();
  }
  check_status(status);
}

}  // namespace syncnorm::bindings
