// What the watchdog does for an NCCL communicator.
#pragma once

#include <memory>
#include <utility>

#include "comm/nccl_create.hpp"
#include "comm/sum_history.hpp"
#include "comm/watchdog.hpp"

namespace syncnorm::nccl {

// Queries the events of the sums.
class EventWatch final : public Watched {
 public:
  EventWatch(ConnectionPtr connection, std::shared_ptr<SumHistory> history)
      : connection_(std::move(connection)), history_(std::move(history)) {}

  void look() noexcept override;

 private:
  const ConnectionPtr connection_;
  const std::shared_ptr<SumHistory> history_;
};

// Fails the connection if NCCL reports an error, or if the oldest sum that is not done stays the
// same for longer than timeout_s. Makes no call of CUDA.
class SumWatch final : public Watched {
 public:
  SumWatch(ConnectionPtr connection, std::shared_ptr<SumHistory> history, double timeout_s)
      : connection_(std::move(connection)), history_(std::move(history)), timeout_s_(timeout_s) {}

  void look() noexcept override;

 private:
  bool overdue(const PendingSum& sum);

  const ConnectionPtr connection_;
  const std::shared_ptr<SumHistory> history_;
  const double timeout_s_;
  std::uint64_t stuck_number_ = 0;  // the oldest pending sum of the last looks
  Clock::time_point stuck_since_;
};

}  // namespace syncnorm::nccl
