#include "backend/cpu/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "backend/cpu/tuning.hpp"

namespace syncnorm::cpu {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  std::int64_t count;
  void (*task)(void*, std::int64_t);
  void* context;
  int places;  // workers that may still join; guarded by the pool's mutex
  std::atomic<std::int64_t> next{0};
  std::atomic<int> inside{0};  // workers that have joined and not left

  void work() {
    for (std::int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed))
      task(context, i);
  }
};

class Pool {
 public:
  void run(Job& job) {
    publish(job);
    job.work();
    withdraw(job);
    while (job.inside.load(std::memory_order_acquire) != 0) pause();
  }

 private:
  void publish(Job& job) {
    bool wake;
    {
      const std::lock_guard lock(mutex_);
      start_workers(job.places);
      jobs_.push_back(&job);
      published_.fetch_add(1, std::memory_order_release);
      wake = sleeping_ > 0;
    }
    if (wake) wake_.notify_all();
  }

  // After this no worker can join, so the job may leave the caller's stack once it is empty.
  void withdraw(Job& job) {
    const std::lock_guard lock(mutex_);
    std::erase(jobs_, &job);
  }

  // Called with the mutex held. Where the system gives no thread, the caller works with those it
  // has.
  void start_workers(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      return;
    }
  }

  Job* join_any() {  // with the mutex held
    for (Job* job : jobs_) {
      if (job->places == 0 || job->next.load(std::memory_order_relaxed) >= job->count) continue;
      --job->places;
      job->inside.fetch_add(1, std::memory_order_relaxed);
      return job;
    }
    return nullptr;
  }

  [[noreturn]] void serve() {
    for (;;) {
      const std::uint64_t seen = published_.load(std::memory_order_acquire);
      if (Job* job = find()) {
        job->work();
        job->inside.fetch_sub(1, std::memory_order_release);
      } else {
        await_change(seen);
      }
    }
  }

  Job* find() {
    const std::lock_guard lock(mutex_);
    return join_any();
  }

  // A short spin bridges the two passes of one call; then sleep, to leave the core to others.
  void await_change(std::uint64_t seen) {
    for (int i = 0; i < kSpinsBeforeSleep; ++i) {
      if (published_.load(std::memory_order_acquire) != seen) return;
      pause();
    }
    std::unique_lock lock(mutex_);
    ++sleeping_;
    wake_.wait(lock, [&] { return published_.load(std::memory_order_relaxed) != seen; });
    --sleeping_;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Job*> jobs_;
  std::atomic<std::uint64_t> published_{0};
  int workers_ = 0;
  int sleeping_ = 0;
};

// Never destroyed: workers may outlive main's static objects.
alignas(Pool) unsigned char pool_storage[sizeof(Pool)];
Pool* pool_instance = nullptr;

// The child of a fork has the parent's memory but none of its workers.
void renew_pool() { pool_instance = new (pool_storage) Pool; }

Pool& pool() {
  static const bool ready = [] {
    renew_pool();
    pthread_atfork(nullptr, nullptr, renew_pool);
    return true;
  }();
  static_cast<void>(ready);
  return *pool_instance;
}

}  // namespace

void run_tasks(int threads, std::int64_t count, void (*task)(void*, std::int64_t), void* context) {
  const auto useful = static_cast<int>(std::min<std::int64_t>(threads, count));
  if (useful <= 1) {
    for (std::int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  Job job{count, task, context, useful - 1};
  pool().run(job);
}

}  // namespace syncnorm::cpu
