// Threads of the process that look after communicators while nobody calls them.
#pragma once

#include <memory>

namespace syncnorm {

class Watched {
 public:
  virtual ~Watched() = default;
  // Called periodically by one thread of the watchdog. It may take a while: others then wait.
  virtual void look() noexcept = 0;
};

// Calls that may block in the CUDA driver have a thread of their own, so that the deadlines are
// kept meanwhile: what the driver waits for may be a sum that has to be aborted.
enum class WatchThread { kDeadlines, kDriver };

// Calls watched->look() about every period_s (or oftener, if another one needs it) as long as
// somebody else holds `watched`. A thread starts with the first, and rests while there is nothing
// to watch. At exit it is waited for, but not for long.
void watch(WatchThread thread, std::weak_ptr<Watched> watched, double period_s);

}  // namespace syncnorm
