// One call at a time on one handle.
#pragma once

#include <atomic>

#include "support/error.hpp"

namespace syncnorm {

// Holds a handle for one call; a second thread that comes meanwhile is refused, not let in.
class ExclusiveUse {
 public:
  ExclusiveUse(std::atomic<bool>& in_use, int rank) : in_use_(in_use) {
    check(!in_use_.exchange(true, std::memory_order_acquire), "the communicator of rank ", rank,
          " is in use by another thread: a handle serves one call at a time. Give every thread the "
          "handle of its own rank, or let one call end before the next begins");
  }
  ~ExclusiveUse() { in_use_.store(false, std::memory_order_release); }
  ExclusiveUse(const ExclusiveUse&) = delete;
  ExclusiveUse& operator=(const ExclusiveUse&) = delete;

 private:
  std::atomic<bool>& in_use_;
};

}  // namespace syncnorm
