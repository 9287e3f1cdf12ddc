// The process that an object belongs to.
#pragma once

namespace syncnorm {

// A forked child has a copy of the object, and none of the threads that may have held its locks.
class HomeProcess {
 public:
  HomeProcess() noexcept;  // this process
  // Whether this is a forked child of it.
  bool left() const noexcept;
  long pid() const noexcept { return pid_; }

 private:
  unsigned forks_;
  long pid_;
};

}  // namespace syncnorm
