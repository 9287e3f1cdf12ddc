#include "comm/home_process.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>

namespace syncnorm {
namespace {

// Between the process that has loaded the library and this one. A system call such as getpid would
// cost more than a small sum.
std::atomic<unsigned> forks{0};

void count_fork() { forks.fetch_add(1, std::memory_order_relaxed); }

[[maybe_unused]] const int counts_forks = pthread_atfork(nullptr, nullptr, count_fork);

}  // namespace

HomeProcess::HomeProcess() noexcept
    : forks_(forks.load(std::memory_order_relaxed)), pid_(getpid()) {}

bool HomeProcess::left() const noexcept { return forks_ != forks.load(std::memory_order_relaxed); }

}  // namespace syncnorm
