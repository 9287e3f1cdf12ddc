#include "comm/nccl_watch.hpp"

#include "comm/process_life.hpp"
#include "support/cuda_runtime.hpp"
#include "support/error.hpp"

namespace syncnorm::nccl {

void EventWatch::look() noexcept {
  if (connection_->failed() || process_is_over()) return;
  const OutsideCaptures outside;
  try {
    // It stays current: to restore device 0 would create a context there.
    check_cuda(cudaSetDevice(connection_->place().device), "cudaSetDevice");
    history_->retire();
  } catch (const Error& error) {
    connection_->fail(error.status(), error.what());
  }
}

void SumWatch::look() noexcept {
  if (connection_->failed() || process_is_over()) return;
  try {
    connection_->poll();
    const std::optional<PendingSum> sum = history_->oldest_pending();
    if (!sum || !overdue(*sum)) return;
    connection_->fail(
        SYNCNORM_TIMEOUT,
        concat(text(connection_->place()), ": ", text(*sum), ", made no progress for ", timeout_s_,
               " s and was aborted. A rank of the group did not make the same call, has died, or "
               "its device is busy with something else. If ranks may honestly be so far apart, "
               "raise sum_timeout_s"));
  } catch (const Error& error) {
    connection_->fail(error.status(), error.what());
  }
}

bool SumWatch::overdue(const PendingSum& sum) {
  if (sum.number != stuck_number_) {
    stuck_number_ = sum.number;
    stuck_since_ = Clock::now();
  }
  return seconds_since(stuck_since_) > timeout_s_;
}

}  // namespace syncnorm::nccl
