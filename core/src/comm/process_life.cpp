#include "comm/process_life.hpp"

#include <pthread.h>

#include <atomic>
#include <cstdlib>

#include "support/error.hpp"

namespace syncnorm {
namespace {

enum class Life { kAlive, kExiting, kForked };

// Trivially destructible: it is asked after static objects have been destroyed.
std::atomic<Life> life{Life::kAlive};

void become_exiting() { life.store(Life::kExiting); }
void become_forked() { life.store(Life::kForked); }

}  // namespace

void observe_process_life() {
  static const bool observed = [] {
    std::atexit(become_exiting);
    pthread_atfork(nullptr, nullptr, become_forked);
    return true;
  }();
  static_cast<void>(observed);
}

bool process_is_over() noexcept { return life.load(std::memory_order_relaxed) != Life::kAlive; }

void require_process_alive() {
  switch (life.load()) {
    case Life::kAlive: return;
    case Life::kExiting:
      fail(SYNCNORM_INTERNAL, "the process is exiting: NCCL communicators can no longer be used");
    case Life::kForked:
      fail(SYNCNORM_UNSUPPORTED,
           "this process was forked from one that uses NCCL, and CUDA does not survive a fork: "
           "start worker processes by spawn or exec, or fork before the first communicator");
  }
}

}  // namespace syncnorm
