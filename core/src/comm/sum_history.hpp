// Which sums were enqueued, in what order, and how far the device has come.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "comm/deadline.hpp"
#include "comm/nccl_cuda.hpp"

namespace syncnorm::nccl {

struct PendingSum {
  std::uint64_t number = 0;  // from 1, over the life of the communicator
  std::int64_t count = 0;
  Clock::time_point since;
  bool enqueued = false;  // else the call has not returned yet
};

std::string text(const PendingSum& sum);  // "sum number 12 of 132 values, enqueued 600 s ago"

// One thread sums, others may ask. An event is recorded behind every sum that is not captured in a
// graph: the next sum waits for it, whatever its stream, and it shows whether the sum is done.
//
// The mutex is never held during a call of CUDA: such a call may block in the driver until a sum is
// done, and the watchdog must then still find that sum.
class SumHistory {
 public:
  // While it lives, the call of a sum of `count` values is under way.
  class UnderWay {
   public:
    UnderWay(SumHistory& history, std::int64_t count);
    ~UnderWay();
    UnderWay(const UnderWay&) = delete;
    UnderWay& operator=(const UnderWay&) = delete;

   private:
    SumHistory& history_;
  };

  // Lets what is enqueued on `stream` from now on wait for the newest sum.
  void make_wait(cudaStream_t stream);
  // The sum that is under way has been enqueued on `stream`.
  void add(cudaStream_t stream);
  // Queries the events: forgets the sums that are done.
  void retire();
  // The oldest sum that was not done at the last retire(). Only the last kLength sums are known.
  std::optional<PendingSum> oldest_pending();

 private:
  static constexpr std::size_t kLength = 32;
  struct Entry {
    PendingSum sum;
    CudaEvent event;
  };
  Entry& entry(std::uint64_t index) { return entries_[index % kLength]; }

  std::mutex mutex_;
  std::array<Entry, kLength> entries_;
  std::uint64_t begin_ = 0;  // entries [begin_, end_) were enqueued and not yet seen to be done
  std::uint64_t end_ = 0;    // written by the thread that sums
  std::uint64_t calls_ = 0;
  std::optional<PendingSum> under_way_;
};

}  // namespace syncnorm::nccl
