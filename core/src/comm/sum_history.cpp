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
  history_.last_ = *history_.under_way_;
  history_.under_way_.reset();
}

void SumHistory::make_wait(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  if (end_ > 0) entry(end_ - 1).event.make_wait(stream);
}

void SumHistory::add(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  if (end_ - begin_ == kLength) ++begin_;
  Entry& newest = entry(end_);
  newest.event.record(stream);
  newest.sum = {last_.number, last_.count, Clock::now(), true};
  ++end_;
}

std::optional<PendingSum> SumHistory::oldest_pending() {
  const std::lock_guard lock(mutex_);
  while (begin_ != end_ && entry(begin_).event.done()) ++begin_;
  if (begin_ != end_) return entry(begin_).sum;
  return under_way_;
}

}  // namespace syncnorm::nccl
