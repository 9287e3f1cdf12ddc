// The all-reduce that connects a new NCCL group: when it is made, and how it fails.
#include <functional>
#include <optional>

#include "comm/interrupt.hpp"
#include "nccl_ranks.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

long all_reduces() { return nccl_double_calls("AllReduce"); }

Outcome create_one(const syncnorm_nccl_options& options) {
  const NcclId id = new_id();
  return outcome_of([&] { make_nccl_communicator(id.data(), 0, 1, 0, options); });
}

Outcome create_group(const std::vector<int>& devices, const syncnorm_nccl_options& options) {
  return outcome_of([&] { make_nccl_group(devices, options); });
}

TEST_CASE("every rank of a new group makes one all-reduce") {
  const NcclTest test;
  Ranks ranks;
  SUBCASE("in threads") { ranks = make_nccl_ranks(3, kAmple); }
  SUBCASE("in one thread") { ranks = make_nccl_group({0, 1, 2}, timeouts(kAmple, kAmple)); }
  CHECK(all_reduces() == 3);
  Ranks parts = split(ranks, {{0, 0}, {-1, 0}, {0, 0}});
  CHECK(all_reduces() == 5);
  CHECK(roll_call(ranks) == std::vector<double>(3, 111));
  CHECK(roll_call(parts) == std::vector<double>{101, 0, 101});
}

TEST_CASE("it has a stream of its own, and leaves nothing behind") {
  const NcclTest test;
  simt::Gate gate(nullptr);  // what is pending on the default stream is not waited for
  const auto streams = simt::calls("cudaStreamCreateWithFlags");
  const auto destroyed = simt::calls("cudaStreamDestroy");
  const auto allocated = simt::calls("cudaMalloc");
  const auto freed = simt::calls("cudaFree");
  const Ranks ranks = make_nccl_group({0, 1}, timeouts(kAmple, kAmple));
  CHECK(simt::calls("cudaStreamCreateWithFlags") - streams == 2);
  CHECK(simt::calls("cudaStreamDestroy") - destroyed == 2);
  CHECK(simt::calls("cudaMalloc") - allocated == simt::calls("cudaFree") - freed);
  gate.open();
}

TEST_CASE("the first sum of the caller may be captured in a graph") {
  const NcclTest test;
  Ranks ranks = make_nccl_group({0}, timeouts(kAmple, kAmple));
  const TestStream stream;
  double values[2] = {7.0, 0.0};
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  ranks[0]->sum(&values[0], &values[1], 1, SYNCNORM_CUDA, stream);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
  ranks[0]->wait(stream, kAmple);
  CHECK(values[1] == 7.0);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

// CUDA ends a capture in the global mode where another thread so much as queries a stream.
TEST_CASE("a creation leaves captures of other threads alone") {
  const NcclTest test;
  const TestStream stream;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  Outcome outcome;
  std::thread other([&] { outcome = create_group({1, 2}, timeouts(kAmple, kAmple)); });
  other.join();
  CHECK(!outcome);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

// The message is that of a sum, and every rank of the process is aborted.
TEST_CASE("an all-reduce that fails, fails the creation") {
  for (const bool group : {false, true}) {
    CAPTURE(group);
    const auto create = [&](double timeout_s) {
      const syncnorm_nccl_options options = timeouts(timeout_s, kAmple);
      return group ? create_group({0, 1}, options) : create_one(options);
    };
    const std::string place = group ? "rank 0 of 2 (CUDA device 0)" : "rank 0 of 1 (CUDA device 0)";
    const long aborts = group ? 2 : 1;
    {
      const NcclTest test;
      nccl_double_set("FAIL", "AllReduce:1:4");
      check_failed(create(kAmple), SYNCNORM_NCCL_ERROR,
                   {place, "ncclAllReduce failed: invalid argument (4)", "the test wants"});
      await([] { return nccl_double_alive() == 0; });
      CHECK(nccl_double_calls("CommAbort") == aborts);
      CHECK(nccl_double_calls("GroupStart") == nccl_double_calls("GroupEnd"));
    }
    for (const auto& [setting, call] : {std::pair{"STALL", "AllReduceCall"},  // is not enqueued
                                        std::pair{"STALL", "AllReduce"},      // is never done
                                        std::pair{"HANG", "AllReduce"}}) {
      CAPTURE(std::string(setting));
      CAPTURE(std::string(call));
      const NcclTest test;
      nccl_double_set(setting, call);
      check_failed(create(kShort), SYNCNORM_TIMEOUT,
                   {place, "waited 0.4 s for the other ranks in ncclAllReduce", "init_timeout_s"});
      await([] { return nccl_double_alive() == 0; });
      CHECK(nccl_double_calls("CommAbort") == aborts);
    }
    for (const char* function : {"cudaMalloc", "cudaStreamCreateWithFlags", "cudaMemsetAsync"}) {
      CAPTURE(std::string(function));
      const NcclTest test;
      simt::fail_next(cudaErrorMemoryAllocation, function);
      check_failed(create(kAmple), SYNCNORM_CUDA_ERROR, {function, "cudaErrorMemoryAllocation"});
      await([] { return nccl_double_alive() == 0; });
      CHECK(nccl_double_calls("CommAbort") == aborts);
      CHECK(all_reduces() == 0);
    }
  }
}

TEST_CASE("a rank that fails there leaves the others to their deadline") {
  const NcclTest test;
  nccl_double_set("FAIL", "AllReduce:1:4");
  Ranks ranks(2);
  const auto outcomes = create(ranks, timeouts(kShort, kAmple), {0, 1});
  const std::size_t failed = outcomes[0] && outcomes[0]->status() == SYNCNORM_NCCL_ERROR ? 0 : 1;
  check_failed(outcomes[failed], SYNCNORM_NCCL_ERROR, {"ncclAllReduce failed"});
  check_failed(outcomes[1 - failed], SYNCNORM_TIMEOUT, {"waited 0.4 s", "ncclAllReduce"});
}

TEST_CASE("a peer that dies is reported by NCCL") {
  const NcclTest test;
  nccl_double_set("STALL", "AllReduce");
  Outcome outcome;
  std::thread creating([&] { outcome = create_one(timeouts(kAmple, kAmple)); });
  await([] { return all_reduces() == 1; });
  nccl_double_set("ASYNC_ERROR", "6");
  creating.join();
  check_failed(outcome, SYNCNORM_NCCL_ERROR, {"rank 0 of 1", "remote process exited"});
}

TEST_CASE("the wait for it is interrupted") {
  const NcclTest test;
  nccl_double_set("STALL", "AllReduce");
  Outcome outcome;
  std::thread creating([&] {
    set_interrupt_check([] { return all_reduces() > 0 ? 1 : 0; });
    outcome = create_one(timeouts(kAmple, kAmple));
  });
  creating.join();
  check_failed(outcome, SYNCNORM_INTERNAL, {"rank 0 of 1", "interrupted", "ncclAllReduce"});
  await([] { return nccl_double_alive() == 0; });
}

TEST_CASE("a part that is not connected fails alone") {
  const NcclTest test;
  Ranks ranks = make_nccl_group({0}, timeouts(kShort, kAmple));
  nccl_double_set("STALL", "AllReduce");
  check_failed(outcome_of([&] { ranks[0]->split(0, 0); }), SYNCNORM_TIMEOUT,
               {"rank 0 of 1", "waited 0.4 s", "ncclAllReduce"});
  nccl_double_set("STALL", "");
  CHECK(nccl_double_calls("CommAbort") == 1);
  CHECK(sum(*ranks[0], {2.0})[0] == 2.0);
}

}  // namespace
