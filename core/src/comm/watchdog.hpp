// One thread of the process that looks after communicators while nobody calls them.
#pragma once

#include <memory>

namespace syncnorm {

class Watched {
 public:
  virtual ~Watched() = default;
  // Called by the watchdog's thread every so often. It may be busy for a while: others then wait.
  virtual void look() noexcept = 0;
};

// Looks at `watched` about every period_s (or oftener, where another needs it) as long as somebody
// else holds it. The thread starts with the first, and rests while there is nothing to watch. At
// exit it is waited for, but not for long.
void watch(std::weak_ptr<Watched> watched, double period_s);

}  // namespace syncnorm
