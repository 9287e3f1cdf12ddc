// The exception classes, and the way from a status of the C interface to one of them.
#pragma once

#include <nanobind/nanobind.h>

#include <exception>
#include <sstream>
#include <string>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

// Makes the exception classes, once, and puts them into the module.
void bind_errors(nb::module_& module);

// Raises the class that belongs to `status`. Needs the GIL.
[[noreturn]] void raise(syncnorm_status status, const std::string& message);

// Returns if `status` is SYNCNORM_OK. Otherwise raises the exception that a Python callback left
// behind in this thread, unchanged, or else the class of `status` with syncnorm_last_error(). Needs
// the GIL.
void check_status(syncnorm_status status);

// Keeps the exception of a Python callback for the check_status that follows in this thread.
void keep_callback_exception(std::exception_ptr exception) noexcept;

// "a", 1, "b" -> "a1b"
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Raises InvalidArgumentError. The message should say what was got, what was expected, what to do.
template <class... Parts>
[[noreturn]] void fail_argument(const Parts&... parts) {
  raise(SYNCNORM_INVALID_ARGUMENT, concat(parts...));
}

// Raises TypeError, for an object that is not of the kind at all.
template <class... Parts>
[[noreturn]] void fail_type(const Parts&... parts) {
  throw nb::type_error(concat(parts...).c_str());
}

// Runs a call of the C interface with the GIL released, and raises if it failed.
template <class Call>
void run(Call&& call) {
  syncnorm_status status;
  {
    nb::gil_scoped_release released;
    status = call();
  }
  check_status(status);
}

}  // namespace syncnorm::bindings
