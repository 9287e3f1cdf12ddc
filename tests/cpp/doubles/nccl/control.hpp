// The settings and the counts of the double.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "nccl.hpp"

namespace nccl_double {

// One lock for everything: a double need not be fast.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
};
World& world();
using Lock = std::unique_lock<std::mutex>;

// Counts a call. Gives what it is to return instead of doing its work, or ncclSuccess. Where it is
// to hang, waits first until `released` or until nobody wants it to hang any more.
ncclResult_t enter(
    Lock& lock, const std::string& function,
    const std::function<bool()>& released = [] { return false; });

// Under the lock.
bool stalls(const std::string& function);
std::chrono::milliseconds slowness();
ncclResult_t async_error();
int version();
ncclResult_t misuse(const std::string& complaint);
void complain(const std::string& complaint);  // for ncclGetLastError
std::string last_complaint();

}  // namespace nccl_double
