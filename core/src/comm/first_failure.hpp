// The failure that a communicator keeps.
#pragma once

#include <atomic>
#include <mutex>
#include <string>

#include "support/error.hpp"

namespace syncnorm {

// The first that is recorded stays, and every later call gets it. For any number of threads.
class FirstFailure {
 public:
  // Whether it was the first.
  bool record(syncnorm_status status, const std::string& message) {
    const std::lock_guard lock(mutex_);
    if (failed()) return false;
    status_ = status;
    message_ = message;
    failed_.store(true, std::memory_order_release);
    return true;
  }

  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  // Throws it, if there is one.
  void rethrow() const {
    if (failed()) raise();
  }

  // Throws it. There must be one: it does not change any more.
  [[noreturn]] void raise() const { throw Error(status_, message_); }

 private:
  std::atomic<bool> failed_{false};
  std::mutex mutex_;  // between those that record
  syncnorm_status status_ = SYNCNORM_OK;
  std::string message_;
};

}  // namespace syncnorm
