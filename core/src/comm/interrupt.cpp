#include "comm/interrupt.hpp"

#include <algorithm>
#include <utility>

namespace syncnorm {
namespace {

thread_local syncnorm_interrupt_fn check_of_thread = nullptr;

}  // namespace

syncnorm_interrupt_fn set_interrupt_check(syncnorm_interrupt_fn check) noexcept {
  return std::exchange(check_of_thread, check);
}

Clock::time_point InterruptCheck::wake_by(Clock::time_point deadline) const noexcept {
  return check_of_thread == nullptr ? deadline : std::min(deadline, next_);
}

bool InterruptCheck::interrupted() noexcept {
  if (check_of_thread == nullptr || Clock::now() < next_) return false;
  const bool stop = check_of_thread() != 0;
  next_ = Clock::now() + kPeriod;
  return stop;
}

}  // namespace syncnorm
