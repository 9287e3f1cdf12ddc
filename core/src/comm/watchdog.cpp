#include "comm/watchdog.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/process_life.hpp"

namespace syncnorm {
namespace {

class Watchdog {
 public:
  Watchdog() {
    std::thread([this] { run(); }).detach();
  }

  void add(std::weak_ptr<Watched> watched, double period_s) {
    {
      const std::lock_guard lock(mutex_);
      entries_.push_back({std::move(watched), period_s});
    }
    wake_.notify_all();
  }

  // The thread ends; a look that is under way may take longer than it is worth waiting for.
  void stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    wake_.wait_for(lock, std::chrono::seconds(1), [this] { return ended_; });
  }

 private:
  struct Entry {
    std::weak_ptr<Watched> watched;
    double period_s;
  };

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      std::vector<std::shared_ptr<Watched>> present = purge();
      lock.unlock();
      for (const auto& watched : present) watched->look();
      present.clear();  // what nobody else holds any more ends here, not after the rest
      lock.lock();
      rest(lock);
    }
    ended_ = true;
    wake_.notify_all();
  }

  std::vector<std::shared_ptr<Watched>> purge() {
    std::vector<std::shared_ptr<Watched>> present;
    std::erase_if(entries_, [&](const Entry& entry) {
      auto watched = entry.watched.lock();
      if (watched == nullptr) return true;
      present.push_back(std::move(watched));
      return false;
    });
    return present;
  }

  void rest(std::unique_lock<std::mutex>& lock) {
    const std::size_t known = entries_.size();
    const auto disturbed = [&] { return stopping_ || entries_.size() != known; };
    if (entries_.empty()) {
      wake_.wait(lock, disturbed);
    } else {
      const auto shortest =
          std::min_element(entries_.begin(), entries_.end(),
                           [](const Entry& a, const Entry& b) { return a.period_s < b.period_s; });
      wake_.wait_for(lock, std::chrono::duration<double>(shortest->period_s), disturbed);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Entry> entries_;
  bool stopping_ = false;
  bool ended_ = false;
};

// Never destroyed: their threads may outlive static objects. A forked child has no such threads,
// and nothing to watch.
template <WatchThread thread>
Watchdog& watchdog() {
  static Watchdog* const instance = [] {
    auto* made = new Watchdog;
    std::atexit([] {
      if (!process_is_over()) watchdog<thread>().stop();
    });
    return made;
  }();
  return *instance;
}

}  // namespace

void watch(WatchThread thread, std::weak_ptr<Watched> watched, double period_s) {
  Watchdog& chosen = thread == WatchThread::kDriver ? watchdog<WatchThread::kDriver>()
                                                    : watchdog<WatchThread::kDeadlines>();
  chosen.add(std::move(watched), period_s);
}

}  // namespace syncnorm
