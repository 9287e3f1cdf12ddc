// Handles in a forked child, and waits that the waiting thread ends.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "syncnorm/syncnorm.h"

namespace {

constexpr double kAmple = 3600.0;  // s: whoever waits hangs

// The exit code of a forked child in which body gives whether all was well; killed if it hangs.
int in_fork(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool refused(syncnorm_status status) {
  return status == SYNCNORM_UNSUPPORTED &&
         std::string(syncnorm_last_error()).find("forked child") != std::string::npos;
}

bool every_call_is_refused(syncnorm_comm* comm) {
  const double src = 1.0;
  double dst = 0.0;
  syncnorm_comm* part = nullptr;
  return refused(syncnorm_comm_sum(comm, &src, &dst, 1, SYNCNORM_CPU, nullptr)) &&
         refused(syncnorm_comm_split(comm, 0, 0, &part)) && refused(syncnorm_comm_poll(comm)) &&
         refused(syncnorm_comm_wait(comm, nullptr, 1.0)) &&
         refused(syncnorm_comm_abort(comm, "reason"));
}

int released = 0;

syncnorm_comm* make_callback(int size) {
  syncnorm_callbacks callbacks = SYNCNORM_CALLBACKS_INIT;
  callbacks.sum = [](void*, const double*, double*, int64_t, void*) { return SYNCNORM_INTERNAL; };
  callbacks.release = [](void*) { ++released; };
  syncnorm_comm* comm = nullptr;
  CHECK(syncnorm_comm_create_callback(0, size, &callbacks, &comm) == SYNCNORM_OK);
  return comm;
}

syncnorm_status forward(syncnorm_comm* comm) {
  const syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  shape.n = shape.c = 2;
  const float x[4] = {1, 2, 3, 4};
  float y[4];
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.x = x;
  args.y = y;
  alignas(64) static std::array<char, 1 << 16> workspace;
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  launch.workspace = workspace.data();
  launch.workspace_size = workspace.size();
  return syncnorm_forward(&shape, &options, &args, comm, &launch);
}

TEST_CASE("the groups of the parent are refused in a forked child") {
  std::array<syncnorm_comm*, 3> comms{};
  REQUIRE(syncnorm_comm_create_threads(2, kAmple, comms.data()) == SYNCNORM_OK);
  comms[2] = make_callback(2);
  CHECK(in_fork([&] {
          bool all = true;
          for (syncnorm_comm* comm : comms) {
            all = all && every_call_is_refused(comm) && refused(forward(comm));
            syncnorm_comm_info info = SYNCNORM_COMM_INFO_INIT;
            all = all && syncnorm_comm_query(comm, &info) == SYNCNORM_OK && info.size == 2;
            syncnorm_comm_destroy(comm);
          }
          return all && released == 0;
        }) == 0);
  CHECK(syncnorm_comm_poll(comms[0]) == SYNCNORM_OK);
  for (syncnorm_comm* comm : comms) syncnorm_comm_destroy(comm);
  CHECK(released == 1);
}

TEST_CASE("a group of one needs nobody: it works in a forked child") {
  syncnorm_comm* alone = make_callback(1);
  CHECK(in_fork([&] { return forward(alone) == SYNCNORM_OK && forward(nullptr) == SYNCNORM_OK; }) ==
        0);
  syncnorm_comm_destroy(alone);
}

TEST_CASE("a forked child creates groups, which its own children cannot use") {
  CHECK(in_fork([] {
          syncnorm_comm* own = nullptr;
          if (syncnorm_comm_create_threads(1, kAmple, &own) != SYNCNORM_OK) return false;
          const double src = 1.0;
          double dst = 0.0;
          if (syncnorm_comm_sum(own, &src, &dst, 1, SYNCNORM_CPU, nullptr) != SYNCNORM_OK)
            return false;
          return in_fork([&] { return every_call_is_refused(own); }) == 0;
        }) == 0);
}

int checks = 0;

TEST_CASE("the check of a thread is installed and restored") {
  CHECK(!syncnorm_set_interrupt_check([] { return ++checks; }));
  std::array<syncnorm_comm*, 2> comms{};
  REQUIRE(syncnorm_comm_create_threads(2, kAmple, comms.data()) == SYNCNORM_OK);
  const double src = 1.0;
  double dst = 0.0;
  CHECK(syncnorm_comm_sum(comms[0], &src, &dst, 1, SYNCNORM_CPU, nullptr) == SYNCNORM_INTERNAL);
  CHECK(std::string(syncnorm_last_error()).find("rank 0 was interrupted") != std::string::npos);
  CHECK(checks == 1);
  for (syncnorm_comm* comm : comms) syncnorm_comm_destroy(comm);
  const syncnorm_interrupt_fn installed = syncnorm_set_interrupt_check(nullptr);
  CHECK(installed() == 2);
}

}  // namespace
