// Ends a wait at the request of the thread that waits.
#pragma once

#include "comm/deadline.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

// Installs the check of the calling thread; returns the previous one.
syncnorm_interrupt_fn set_interrupt_check(syncnorm_interrupt_fn check) noexcept;

// Calls the check of this thread, if there is one, at most once in kPeriod. The check runs
// code of the caller, calls on the same group included: hold no lock.
class InterruptCheck {
 public:
  static constexpr auto kPeriod = std::chrono::milliseconds(50);

  InterruptCheck() : next_(Clock::now() + kPeriod) {}

  // When a wait that may last until `deadline` has to end for the next call.
  Clock::time_point wake_by(Clock::time_point deadline) const noexcept;
  // Whether the wait is to end.
  bool interrupted() noexcept;

 private:
  Clock::time_point next_;
};

}  // namespace syncnorm
