// Statuses instead of exceptions, and what the C++ face tells of the library.
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "hpp_support.hpp"

namespace {

using syncnorm::Status;

bool says(const Status& status, syncnorm_status code, const char* text) {
  CAPTURE(status.message());
  return !status.ok() && status.code() == code && status.message().find(text) != std::string::npos;
}

TEST_CASE("a status tells what the library refuses, and the next call clears it") {
  Status status;
  CHECK(status.ok());
  syncnorm::Options wrong;
  wrong.eps = -1;
  const syncnorm::Sizes none = syncnorm::query_sizes({1, 1, 1}, wrong, SYNCNORM_CPU, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "options.eps is -1"));
  CHECK(none.wire == 0);
  const syncnorm::Sizes sizes = syncnorm::query_sizes({1, 1, 1}, {}, SYNCNORM_CPU, status);
  CHECK(status.ok());
  CHECK(status.code() == SYNCNORM_OK);
  CHECK(status.message().empty());
  CHECK(sizes.wire == 6);
}

TEST_CASE("views that do not fit together are told once, and the library is not called") {
  Status status;
  Shard shard = make_shards()[0];
  const syncnorm::Workspace workspace(syncnorm::query_sizes(shard.shape(), {}).workspace);
  const auto launch = syncnorm::Launch::cpu(workspace);
  Values wire(5), local_var(2);
  syncnorm::moments({}, shard.forward(), wire, launch, local_var, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "wire has 5 values, expected 6"));
  CHECK(wire == Values(5));
  syncnorm::add_wires(wire, local_var, launch, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "gathered has 5 values, expected a multiple"));
  auto back = shard.backward();
  back.dx = {shard.dx.data(), 4, 1};
  syncnorm::backward({}, back, launch, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "dx differs from x"));
  syncnorm::Options wrong;
  wrong.momentum = 2;
  syncnorm::forward(wrong, shard.forward(), launch, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "options.momentum is 2"));
  CHECK(shard.y == Values(4, 0.0));
}

TEST_CASE("a whole call in statuses") {
  Status made;
  auto ranks = Communicator::thread_group(2, std::chrono::seconds(60), made);
  REQUIRE(made.ok());
  auto shards = make_shards();
  on_every_rank(ranks, [&](std::size_t r, Communicator& rank) {
    Status status;
    const auto sizes = syncnorm::query_sizes(shards[r].shape(), {}, SYNCNORM_CPU, status);
    const syncnorm::Workspace workspace(sizes.workspace);
    const auto launch = syncnorm::Launch::cpu(workspace);
    syncnorm::forward({}, shards[r].forward(), rank, launch, status);
    CHECK(status.ok());
    syncnorm::backward({}, shards[r].backward(), rank, launch, status);
    CHECK(status.ok());
  });
  check_shards(shards);
}

TEST_CASE("communicators that are not made are empty, and those that fail say why") {
  Status status;
  CHECK(Communicator::thread_group(0, std::chrono::seconds(1), status).empty());
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "number of ranks is 0"));
  CHECK_FALSE(Communicator::callback(0, 1, {}, status));
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "sum callback is NULL"));
  CHECK(Communicator().size(status) == 0);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "comm is NULL"));

  auto ranks = Communicator::thread_group(2, std::chrono::milliseconds(20), status);
  REQUIRE(status.ok());
  Values one(1), two(2);
  ranks[0].sum(one, two, status);
  CHECK(says(status, SYNCNORM_INVALID_ARGUMENT, "src has 1 values and dst 2"));
  ranks[0].sum(one, {two.data(), 1}, status);
  CHECK(says(status, SYNCNORM_TIMEOUT, "missing: rank 1"));
  ranks[1].poll(status);
  CHECK(says(status, SYNCNORM_TIMEOUT, "missing: rank 1"));
  CHECK_FALSE(ranks[1].split(0, 0, status).has_value());
  CHECK(says(status, SYNCNORM_TIMEOUT, "missing: rank 1"));
}

TEST_CASE("what a callback throws is told in the status") {
  syncnorm::Callbacks callbacks;
  bool known = true;
  callbacks.sum = [&](const double*, double*, std::int64_t, void*) {
    if (known) throw syncnorm::Timeout("the cable");
    throw 42;
  };
  callbacks.abort = [](const std::string& reason) { throw std::runtime_error("not " + reason); };
  Values one(1), total(1);
  Status status;
  auto rank = Communicator::callback(0, 2, callbacks, status);
  rank.sum(one, total, status);
  CHECK(says(status, SYNCNORM_TIMEOUT, "the cable"));
  known = false;
  rank = Communicator::callback(0, 2, callbacks, status);
  CHECK(status.ok());
  rank.sum(one, total, status);
  CHECK(says(status, SYNCNORM_INTERNAL, "the sum callback of rank 0 of 2 returned status 8"));
  rank.abort("heard", status);
  CHECK(says(status, SYNCNORM_INTERNAL, "not heard"));
}

TEST_CASE("the library tells its version and what it has") {
  const std::string expected = std::to_string(SYNCNORM_VERSION_MAJOR) + "." +
                               std::to_string(SYNCNORM_VERSION_MINOR) + "." +
                               std::to_string(SYNCNORM_VERSION_PATCH);
  CHECK(syncnorm::version() == expected);
  CHECK_NOTHROW(syncnorm::check_version());
  CHECK(std::string(syncnorm::name_of(SYNCNORM_DESYNC)) == "desync");
  CHECK(std::string(syncnorm::query_capabilities().cpu_isa) != "");
}

TEST_CASE("a launch hands on the status word and the control buffer") {
  std::int32_t word = 0;
  alignas(64) static unsigned char control[SYNCNORM_CONTROL_SIZE];
  void* const stream = &word;
  syncnorm::Launch launch = syncnorm::Launch::cuda(3, stream, {control, 64});
  const syncnorm_launch& c = launch.status(&word).control(control).c_struct();
  CHECK(c.device == SYNCNORM_CUDA);
  CHECK(c.device_index == 3);
  CHECK(c.stream == stream);
  CHECK(c.workspace == control);
  CHECK(c.workspace_size == 64);
  CHECK(c.status == &word);
  CHECK(c.control == control);
}

}  // namespace
