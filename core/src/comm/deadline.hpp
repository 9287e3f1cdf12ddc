// Waiting by asking again and again, until a deadline.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace syncnorm {

using Clock = std::chrono::steady_clock;

inline constexpr double kLongestTimeout = 1e9;  // s; the clock counts to 9.2e9

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Deadline {
 public:
  explicit Deadline(double seconds) : seconds_(seconds), begin_(Clock::now()) {}

  double seconds() const noexcept { return seconds_; }  // from begin to end
  double left() const { return std::max(seconds_ - seconds_since(begin_), 0.0); }
  bool passed() const { return left() <= 0; }

 private:
  double seconds_;
  Clock::time_point begin_;
};

// The pauses between the questions: first only a turn for other threads, as what NCCL does in a
// thread of its own takes some ten microseconds, then sleeps that grow to a millisecond.
class Backoff {
 public:
  void pause() {
    if (turns_ < kTurns) {
      ++turns_;
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(sleep_);
      sleep_ = std::min(sleep_ * 2, kLongestSleep);
    }
  }

 private:
  using Microseconds = std::chrono::microseconds;
  static constexpr int kTurns = 200;
  static constexpr Microseconds kLongestSleep{1000};
  int turns_ = 0;
  Microseconds sleep_{20};
};

}  // namespace syncnorm
