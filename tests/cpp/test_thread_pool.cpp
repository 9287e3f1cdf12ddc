#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "backend/cpu/thread_pool.hpp"
#include "doctest/doctest.h"

using syncnorm::cpu::parallel_for;

namespace {

// Whether every index is visited exactly once.
bool visits_each_once(int threads, std::int64_t count) {
  std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
  parallel_for(threads, count, [&](std::int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
  for (const auto& v : visits)
    if (v != 1) return false;
  return true;
}

}  // namespace

TEST_CASE("each task runs exactly once, whatever the numbers of threads and tasks") {
  for (const int threads : {1, 2, 3, 8})
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) CHECK(visits_each_once(threads, count));
}

TEST_CASE("what tasks write is visible to the caller") {
  std::vector<double> values(257);
  for (int round = 0; round < 200; ++round) {
    parallel_for(3, 257, [&](std::int64_t i) { values[static_cast<std::size_t>(i)] = round; });
    for (const double v : values) REQUIRE(v == round);
  }
}

TEST_CASE("many callers share the workers") {
  std::atomic<int> failures = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) failures += !visits_each_once(3, 20);
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(failures == 0);
}

#if !defined(__SANITIZE_THREAD__)  // ThreadSanitizer does not follow threads started after a fork
TEST_CASE("a forked child has workers of its own") {
  REQUIRE(visits_each_once(3, 50));  // the parent's pool has started
  const pid_t child = fork();
  if (child == 0) _exit(visits_each_once(3, 50) ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(visits_each_once(3, 50));
}
#endif
