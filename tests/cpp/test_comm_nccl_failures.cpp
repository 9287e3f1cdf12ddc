// How an NCCL communicator fails after it was made: each failure once, with the first reason, and
// nothing hangs.
#include <functional>
#include <optional>

#include "comm/interrupt.hpp"
#include "nccl_ranks.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

constexpr double kNoWatchdog = -1.0;

std::unique_ptr<Communicator> make_one(double sum_s = kAmple, double init_s = kAmple) {
  Ranks ranks = make_nccl_group({0}, timeouts(init_s, sum_s));
  return std::move(ranks[0]);
}

struct Buffers {
  double src = 1.0;
  double dst = 0.0;
};

void enqueue(Communicator& rank, Buffers& buffers, cudaStream_t stream = nullptr) {
  rank.sum(&buffers.src, &buffers.dst, 1, SYNCNORM_CUDA, stream);
}

Outcome failure_of(Communicator& rank) {
  std::optional<Error> failure;
  await([&] {
    failure = outcome_of([&] { rank.poll(); });
    return failure.has_value();
  });
  return failure;
}

// Every call gives the reason, and the communicator is aborted once.
void check_stays_failed(Communicator& rank, syncnorm_status status, const std::string& reason) {
  Buffers buffers;
  check_failed(outcome_of([&] { enqueue(rank, buffers); }), status, {reason});
  check_failed(outcome_of([&] { rank.split(0, 0); }), status, {reason});
  check_failed(outcome_of([&] { rank.wait(nullptr, 1.0); }), status, {reason});
  rank.abort("another reason");
  check_failed(outcome_of([&] { rank.poll(); }), status, {reason});
  await([] { return nccl_double_alive() == 0; });
  CHECK(nccl_double_calls("CommAbort") == 1);
}

TEST_CASE("the watchdog finds a sum that hangs after it was enqueued, and names it") {
  const NcclTest test;
  auto rank = make_one(kShort);
  Buffers buffers;
  enqueue(*rank, buffers);
  nccl_double_set("STALL", "AllReduce");
  std::vector<double> src(132);
  std::vector<double> dst(132);
  rank->sum(src.data(), dst.data(), 132, SYNCNORM_CUDA, nullptr);
  enqueue(*rank, buffers);
  const Outcome failure = failure_of(*rank);  // nobody waits for the stream
  check_failed(failure, SYNCNORM_TIMEOUT,
               {"rank 0 of 1 (CUDA device 0)", "sum number 2 of 132 values, enqueued ",
                "no progress for 0.4 s", "sum_timeout_s"});
  check_stays_failed(*rank, SYNCNORM_TIMEOUT, "sum number 2 of 132 values");
  CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);  // the abort has released the stream
}

TEST_CASE("a sum that other ranks do not make, while one of them goes on") {
  const NcclTest test;
  Ranks ranks = make_nccl_group({0, 1}, timeouts(kAmple, kShort));
  Buffers buffers;
  enqueue(*ranks[0], buffers);
  check_failed(failure_of(*ranks[0]), SYNCNORM_TIMEOUT,
               {"rank 0 of 2", "sum number 1 of 1 values"});
  CHECK(!outcome_of([&] { ranks[1]->poll(); }));  // it has nothing to wait for
}

TEST_CASE("sums that move on are left alone, however long they take together") {
  const NcclTest test;
  auto rank = make_one(kShort);
  Buffers buffers;
  for (int i = 0; i < 8; ++i) {
    simt::Gate gate(nullptr);
    enqueue(*rank, buffers);
    sleep_for(kShort / 4);
    gate.open();
    rank->wait(nullptr, kAmple);
  }
  CHECK(!outcome_of([&] { rank->poll(); }));
}

// More sums than are remembered one by one.
TEST_CASE("the watchdog finds a hang behind many sums") {
  const NcclTest test;
  auto rank = make_one(kShort);
  Buffers buffers;
  nccl_double_set("STALL", "AllReduce");
  for (int i = 0; i < 100; ++i) enqueue(*rank, buffers);
  check_failed(failure_of(*rank), SYNCNORM_TIMEOUT, {"sum number 69 of 1 values"});
}

TEST_CASE("a sum that hangs inside NCCL is released by the watchdog") {
  const NcclTest test;
  auto rank = make_one(kShort);
  nccl_double_set("HANG", "AllReduce");
  Buffers buffers;
  check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_TIMEOUT,
               {"sum number 1 of 1 values, called ", "no progress"});
  check_stays_failed(*rank, SYNCNORM_TIMEOUT, "sum number 1 of 1 values");
}

TEST_CASE("a call that hangs inside NCCL is released by an abort of another thread") {
  const NcclTest test;
  const char* function = "AllReduce";
  SUBCASE("a sum") {}
  SUBCASE("a split") { function = "CommSplit"; }
  auto rank = make_one(kNoWatchdog);
  const long before = nccl_double_calls(function);
  nccl_double_set("HANG", function);
  Outcome released;
  std::thread caller([&] {
    Buffers buffers;
    released = outcome_of([&] {
      if (std::string(function) == "AllReduce") {
        enqueue(*rank, buffers);
      } else {
        rank->split(0, 0);
      }
    });
  });
  await([&] { return nccl_double_calls(function) == before + 1; });
  rank->abort("the trainer stops");
  caller.join();
  check_failed(released, SYNCNORM_INTERNAL, {"rank 0 of 1", "the trainer stops"});
  check_stays_failed(*rank, SYNCNORM_INTERNAL, "the trainer stops");
}

TEST_CASE("a sum that NCCL does not get enqueued has the deadline of the creation") {
  const NcclTest test;
  auto rank = make_one(kNoWatchdog, kShort);
  nccl_double_set("STALL", "AllReduceCall");
  Buffers buffers;
  check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_TIMEOUT,
               {"waited 0.4 s", "ncclAllReduce", "init_timeout_s"});
  check_stays_failed(*rank, SYNCNORM_TIMEOUT, "ncclAllReduce");
}

TEST_CASE("a peer that dies is reported by NCCL") {
  const NcclTest test;
  SUBCASE("to the watchdog") {
    auto rank = make_one();
    nccl_double_set("ASYNC_ERROR", "6");
    await([] { return nccl_double_alive() == 0; });
    check_stays_failed(*rank, SYNCNORM_NCCL_ERROR, "remote process exited");
  }
  SUBCASE("to poll") {
    auto rank = make_one(kNoWatchdog);
    nccl_double_set("ASYNC_ERROR", "6");
    check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_NCCL_ERROR,
                 {"rank 0 of 1", "remote process exited or there was a network error (6)"});
    check_stays_failed(*rank, SYNCNORM_NCCL_ERROR, "remote process exited");
  }
  SUBCASE("to wait") {
    auto rank = make_one(kNoWatchdog);
    nccl_double_set("STALL", "AllReduce");
    Buffers buffers;
    enqueue(*rank, buffers);
    nccl_double_set("ASYNC_ERROR", "6");
    check_failed(outcome_of([&] { rank->wait(nullptr, kAmple); }), SYNCNORM_NCCL_ERROR,
                 {"remote process exited"});
    check_stays_failed(*rank, SYNCNORM_NCCL_ERROR, "remote process exited");
  }
}

TEST_CASE("a sum that NCCL refuses fails the communicator") {
  const NcclTest test;
  auto rank = make_one();
  nccl_double_set("FAIL", "AllReduce:2:4");  // the first one was at the creation
  Buffers buffers;
  check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_NCCL_ERROR,
               {"ncclAllReduce failed: invalid argument (4)", "the test wants"});
  check_stays_failed(*rank, SYNCNORM_NCCL_ERROR, "ncclAllReduce failed");
}

TEST_CASE("a split that fails, fails the group that was to be divided") {
  const NcclTest test;
  auto rank = make_one(kNoWatchdog, kShort);
  std::string reason;
  SUBCASE("by its result") {
    nccl_double_set("FAIL", "CommSplit:1:3");
    reason = "ncclCommSplit failed: internal error (3)";
  }
  SUBCASE("by ranks that do not come") {
    nccl_double_set("STALL", "CommSplit");
    reason = "waited 0.4 s";
  }
  const Outcome outcome = outcome_of([&] { rank->split(0, 0); });
  REQUIRE(outcome);
  check_failed(outcome, outcome->status(), {reason, "ncclCommSplit"});
  check_stays_failed(*rank, outcome->status(), reason);
}

TEST_CASE("an error of the CUDA runtime before a sum leaves the group sound, after it not") {
  const NcclTest test;
  auto rank = make_one(kNoWatchdog);
  const long before = nccl_double_calls("AllReduce");
  Buffers buffers;
  for (const char* function : {"cudaGetDevice", "cudaStreamIsCapturing"}) {
    simt::fail_next(cudaErrorUnknown, function);
    check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_CUDA_ERROR, {function});
  }
  enqueue(*rank, buffers);
  simt::fail_next(cudaErrorUnknown, "cudaStreamWaitEvent");
  check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_CUDA_ERROR,
               {"cudaStreamWaitEvent"});
  CHECK(nccl_double_calls("AllReduce") == before + 1);
  CHECK(!outcome_of([&] { rank->poll(); }));

  simt::fail_next(cudaErrorUnknown, "cudaEventRecord");
  check_failed(outcome_of([&] { enqueue(*rank, buffers); }), SYNCNORM_CUDA_ERROR,
               {"rank 0 of 1", "cudaEventRecord"});
  check_stays_failed(*rank, SYNCNORM_CUDA_ERROR, "cudaEventRecord");
  CHECK(cudaGetLastError() == cudaSuccess);  // it has been told
}

// A destructor gives up where the group does not end in good order, and returns.
TEST_CASE("a communicator that cannot be ended in good order") {
  const NcclTest test;
  auto rank = make_one(kShort);
  SUBCASE("its last sum is never done") {
    nccl_double_set("STALL", "AllReduce");
    Buffers buffers;
    enqueue(*rank, buffers);
    rank.reset();
    CHECK(nccl_double_calls("CommAbort") == 1);
  }
  SUBCASE("it does not become quiet") {
    nccl_double_set("STALL", "CommFinalize");
    rank.reset();
    CHECK(nccl_double_calls("CommAbort") == 1);
  }
  SUBCASE("finalize hangs") {
    nccl_double_set("HANG", "CommFinalize");
    rank.reset();
    CHECK(nccl_double_calls("CommAbort") == 1);
  }
  SUBCASE("finalize fails") {
    nccl_double_set("FAIL", "CommFinalize:1:3");
    rank.reset();
    CHECK(nccl_double_calls("CommAbort") == 1);
  }
  SUBCASE("destroy hangs") {
    nccl_double_set("HANG", "CommDestroy");
    rank.reset();
    nccl_double_set("HANG", "");
    await([] { return nccl_double_alive() == 0; });
  }
  SUBCASE("abort hangs") {
    nccl_double_set("HANG", "CommAbort");
    rank->abort("enough");
    rank.reset();
    nccl_double_set("HANG", "");
    await([] { return nccl_double_alive() == 0; });
    CHECK(nccl_double_calls("CommAbort") == 1);
    CHECK(nccl_double_calls("CommFinalize") == 0);
  }
}

TEST_CASE("many threads that abort at once: one reason, one abort") {
  const NcclTest test;
  auto rank = make_one();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { rank->abort(concat("thread ", i)); });
  }
  for (std::thread& thread : threads) thread.join();
  const Outcome first = outcome_of([&] { rank->poll(); });
  check_failed(first, SYNCNORM_INTERNAL, {"thread "});
  check_stays_failed(*rank, SYNCNORM_INTERNAL, first->what());
}

// A check of this thread that ends the wait of `call`.
Outcome interrupted(const std::function<void()>& call) {
  set_interrupt_check([] { return 1; });
  const Outcome outcome = outcome_of(call);
  set_interrupt_check(nullptr);
  return outcome;
}

TEST_CASE("a wait for a stream is interrupted") {
  const NcclTest test;
  auto rank = make_one(kNoWatchdog);
  Buffers buffers;
  nccl_double_set("STALL", "AllReduce");
  enqueue(*rank, buffers);
  check_failed(interrupted([&] { rank->wait(nullptr, kAmple); }), SYNCNORM_INTERNAL,
               {"rank 0 of 1", "interrupted", "a wait for its stream"});
  check_stays_failed(*rank, SYNCNORM_INTERNAL, "interrupted");
}

TEST_CASE("a split that hangs inside NCCL is interrupted") {
  const NcclTest test;
  auto rank = make_one(kNoWatchdog);
  nccl_double_set("HANG", "CommSplit");
  check_failed(interrupted([&] { rank->split(0, 0); }), SYNCNORM_INTERNAL,
               {"rank 0 of 1", "interrupted", "ncclCommSplit"});
  check_stays_failed(*rank, SYNCNORM_INTERNAL, "interrupted");
}

TEST_CASE("a creation that waits for the other ranks is interrupted") {
  const NcclTest test;
  const NcclId id = new_id();
  check_failed(
      interrupted([&] { make_nccl_communicator(id.data(), 0, 2, 0, timeouts(kAmple, kAmple)); }),
      SYNCNORM_INTERNAL, {"rank 0 of 2", "interrupted", "ncclCommInitRankConfig"});
  await([] { return nccl_double_alive() == 0; });
}

}  // namespace
