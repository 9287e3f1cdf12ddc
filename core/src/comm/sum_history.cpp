#include "comm/sum_history.hpp"

#include "support/error.hpp"

namespace syncnorm::nccl {

std::string text(const PendingSum& sum) {
  return concat("sum number ", sum.number, " of ", sum.count, " values, ",
                sum.enqueued ? "enqueued " : "called ", seconds_since(sum.since), " s ago");
}

SumHistory::UnderWay::UnderWay(SumHistory& history, std::int64_t count) : history_(history) {
  const std::lock_guard lock(history_.mutex_);
  history_.under_way_ = PendingSum{++history_.calls_, count, Clock::now(), false};
}

SumHistory::UnderWay::~UnderWay() {
  const std::lock_guard lock(history_.mutex_);
  history_.under_way_.reset();
}

void SumHistory::make_wait(cudaStream_t stream) {
  if (end_ > 0) entry(end_ - 1).event.make_wait(stream);
}

void SumHistory::add(cudaStream_t stream) {
  {
    const std::lock_guard lock(mutex_);
    if (end_ - begin_ == kLength) ++begin_;  // its event is recorded anew
  }
  entry(end_).event.record(stream);
  const std::lock_guard lock(mutex_);
  entry(end_).sum = {under_way_->number, under_way_->count, Clock::now(), true};
  ++end_;
}

void SumHistory::retire() {
  std::unique_lock lock(mutex_);
  while (begin_ != end_) {
    const std::uint64_t oldest = begin_;
    lock.unlock();
    const bool done = entry(oldest).event.done();
    lock.lock();
    if (begin_ != oldest) continue;  // retired or dropped meanwhile
    if (!done) return;
    ++begin_;
  }
}

std::optional<PendingSum> SumHistory::oldest_pending() {
  const std::lock_guard lock(mutex_);
  if (begin_ != end_) return entry(begin_).sum;
  return under_way_;
}

}  // namespace syncnorm::nccl
