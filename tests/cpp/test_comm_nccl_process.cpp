// NCCL communicators at the end of the process, and in a forked child. The tests named "child" are
// run by the others, in a process of their own.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>

#include "nccl_ranks.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

long all_calls() {
  long sum = 0;
  for (const char* function : {"CommAbort", "CommDestroy", "CommFinalize", "CommGetAsyncError"})
    sum += nccl_double_calls(function);
  return sum;
}

// Destroyed late at exit: it holds communicators that must then leave NCCL and CUDA alone.
struct Kept {
  ~Kept() {
    const long nccl = all_calls();
    const auto cuda = simt::calls("cudaSetDevice") + simt::calls("cudaEventDestroy");
    const bool there = !ranks.empty();
    ranks.clear();
    if (there && all_calls() != nccl) _exit(3);
    if (there && simt::calls("cudaSetDevice") + simt::calls("cudaEventDestroy") != cuda) _exit(4);
  }
  Ranks ranks;
} kept;

void make_kept() {
  nccl_double_reset();
  kept.ranks = make_nccl_group({0, 1}, timeouts(kAmple, kAmple));
  std::vector<double> dst(2);
  for (std::size_t r = 0; r < 2; ++r)
    kept.ranks[r]->sum(&dst[1 - r], &dst[r], 1, SYNCNORM_CUDA, nullptr);
  for (auto& rank : kept.ranks) rank->wait(nullptr, kAmple);
}

int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

// By it a test that was run in a process of its own says that it came to its end.
constexpr const char* kEnd = "the child came to its end";

void come_to_the_end() { std::puts(kEnd); }

// The exit code of `test` in a process of its own.
int run(const std::string& test) {
  const std::string self = "/proc/" + std::to_string(getpid()) + "/exe";
  // What only a thread that a fork left behind knows, would be taken for a leak.
  const std::string no_leaks = "ASAN_OPTIONS=\"$ASAN_OPTIONS:detect_leaks=0\" ";
  FILE* child = popen((no_leaks + self + " --no-skip --test-case='" + test + "'").c_str(), "r");
  REQUIRE(child != nullptr);
  std::string output;
  for (int c = std::fgetc(child); c != EOF; c = std::fgetc(child))
    output.push_back(static_cast<char>(c));
  const int code = exit_code(pclose(child));
  CAPTURE(output);
  CHECK(output.find(kEnd) != std::string::npos);
  return code;
}

// The exit code of a forked child in which body gives whether all was well.
int in_fork(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return exit_code(status);
}

TEST_CASE("child: exits with communicators" * doctest::skip()) {
  make_kept();
  come_to_the_end();
}

TEST_CASE("child: exits with a sum that is never done" * doctest::skip()) {
  make_kept();
  static double values[2];
  kept.ranks[0]->sum(&values[0], &values[1], 1, SYNCNORM_CUDA, nullptr);
  come_to_the_end();
}

TEST_CASE("child: exits while the watchdog hangs in an abort" * doctest::skip()) {
  nccl_double_reset();
  kept.ranks = make_nccl_group({0}, timeouts(kAmple, kAmple));
  nccl_double_set("HANG", "CommAbort");
  nccl_double_set("ASYNC_ERROR", "6");
  await([] { return nccl_double_calls("CommAbort") == 1; });
  come_to_the_end();
}

TEST_CASE("child: forks and both exit" * doctest::skip()) {
  make_kept();
  const pid_t child = fork();
  if (child == 0) std::exit(0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(exit_code(status) == 0);
  come_to_the_end();
}

TEST_CASE("child: destroys before the exit" * doctest::skip()) {
  make_kept();
  kept.ranks.clear();
  CHECK(nccl_double_calls("CommDestroy") == 2);
  come_to_the_end();
}

TEST_CASE("a process ends as if there were no communicators") {
  for (const char* test :
       {"child: exits with communicators", "child: exits with a sum that is never done",
        "child: exits while the watchdog hangs in an abort", "child: forks and both exit",
        "child: destroys before the exit"}) {
    CAPTURE(std::string(test));
    CHECK(run(test) == 0);
  }
}

TEST_CASE("a forked child is told that it cannot use them") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(1, kAmple);
  const auto refused = [](const std::function<void()>& call) {
    const Outcome outcome = outcome_of(call);
    return outcome && outcome->status() == SYNCNORM_UNSUPPORTED &&
           std::string(outcome->what()).find("fork") != std::string::npos;
  };
  CHECK(in_fork([&] {
          double value = 1.0;
          double total = 0.0;
          Communicator& rank = *ranks[0];
          const NcclId id{};
          const auto options = timeouts(kShort, kShort);
          const bool told = refused([&] { rank.sum(&value, &total, 1, SYNCNORM_CUDA, nullptr); }) &&
                            refused([&] { rank.split(0, 0); }) && refused([&] { rank.poll(); }) &&
                            refused([&] { rank.wait(nullptr, kShort); }) &&
                            refused([&] { make_nccl_communicator(id.data(), 0, 1, 0, options); }) &&
                            refused([&] { make_nccl_group({0}, options); });
          rank.abort("no harm is done");
          ranks.clear();
          return told;
        }) == 0);
  CHECK(sum(*ranks[0], {1.0})[0] == 1.0);  // the parent's goes on
}

}  // namespace
