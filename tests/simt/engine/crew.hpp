// What the threads of a block run on.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/observer.hpp"

namespace simt {

// A stack for each thread and, for ThreadSanitizer, an observer: always the same of both together,
// because the stack keeps what it had.
class Crew {
 public:
  explicit Crew(std::size_t threads);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  std::size_t threads() const { return threads_; }
  std::byte* stack(std::size_t i) const;
  static std::size_t stack_size();
  // Whether a thread has written below the end of its stack, or close to it.
  bool overflowed(std::size_t i) const;
  const Observer* observer(std::size_t i) const {
    return kThreadSanitizer ? &observers_[i] : nullptr;
  }
  // One more, made when it is first asked for.
  const Observer& publisher();
  // Before its next block.
  void clear();

 private:
  std::size_t threads_;
  std::size_t bytes_;
  std::byte* memory_;
  std::deque<Observer> observers_;
  std::optional<Observer> publisher_;
};

// Crews to be used again, by any thread: ThreadSanitizer takes half a millisecond to make one
// observer.
class Crews {
 public:
  static Crews& get();
  std::unique_ptr<Crew> take(std::size_t threads);
  void give(std::unique_ptr<Crew> crew);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Crew>> kept_;  // the last one given at the end
};

}  // namespace simt
