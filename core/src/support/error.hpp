// How a failure travels inside the core: an exception that api/ turns into a status and a message.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "syncnorm/syncnorm.h"

namespace syncnorm {

class Error : public std::runtime_error {
 public:
  Error(syncnorm_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  syncnorm_status status() const noexcept { return status_; }

 private:
  syncnorm_status status_;
};

// "a", 1, "b" -> "a1b"
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Throws Error(status, message of the parts).
template <class... Parts>
[[noreturn]] void fail(syncnorm_status status, const Parts&... parts) {
  throw Error(status, concat(parts...));
}

// The message should say what was wrong, what was got, what was expected and what to do.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) fail(SYNCNORM_INVALID_ARGUMENT, parts...);
}

}  // namespace syncnorm
