// Communicators of the trainer's own, lent to us.
#include "doubles/nccl/nccl.hpp"
#include "nccl_ranks.hpp"
#include "support/kernel_list.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

// What a trainer has: n communicators that NCCL made, one per device, blocking as NCCL's default.
class Trainer {
 public:
  explicit Trainer(int n, bool blocking = true) : comms_(static_cast<std::size_t>(n)) {
    ncclUniqueId id;
    CHECK(ncclGetUniqueId(&id) == ncclSuccess);
    ncclConfig_t config{sizeof(config), 0xcafebeef, 22809, blocking, 0, 0, 0, nullptr, 0};
    CHECK(ncclGroupStart() == ncclSuccess);
    for (int r = 0; r < n; ++r) {
      CHECK(cudaSetDevice(r) == cudaSuccess);
      CHECK(ncclCommInitRankConfig(&comm(r), n, id, r, &config) == ncclSuccess);
    }
    const ncclResult_t end = ncclGroupEnd();
    CHECK((end == ncclSuccess || end == ncclInProgress));
    CHECK(cudaSetDevice(0) == cudaSuccess);
  }
  ~Trainer() {
    for (ncclComm_t each : comms_) CHECK(ncclCommDestroy(each) == ncclSuccess);
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  void abort() {
    for (ncclComm_t each : comms_) CHECK(ncclCommAbort(each) == ncclSuccess);
    comms_.clear();
  }

  ncclComm_t& comm(int rank) { return comms_[static_cast<std::size_t>(rank)]; }

  Ranks lend(double timeout_s) {
    Ranks ranks;
    for (ncclComm_t each : comms_)
      ranks.push_back(borrow_nccl_communicator(each, timeouts(timeout_s, timeout_s)));
    return ranks;
  }

 private:
  std::vector<ncclComm_t> comms_;
};

void kernel() {}

[[maybe_unused]] const bool added = [] {
  cuda::KernelList::add(reinterpret_cast<const void*>(&kernel));
  return true;
}();

TEST_CASE("a borrowed communicator sums, and is left as it was") {
  const NcclTest test;
  for (const bool blocking : {true, false}) {
    Trainer trainer(2, blocking);
    const auto loaded = simt::calls("cudaFuncGetAttributes");
    const long sums = nccl_double_calls("AllReduce");
    Ranks ranks = trainer.lend(kAmple);
    CHECK(simt::calls("cudaFuncGetAttributes") - loaded ==
          2 * static_cast<std::int64_t>(cuda::KernelList::all().size()));
    CHECK(nccl_double_calls("AllReduce") == sums);  // the trainer connects its ranks
    CHECK(std::string(ranks[1]->kind()) == "nccl");
    CHECK(ranks[1]->rank() == 1);
    CHECK(ranks[1]->size() == 2);
    CHECK(roll_call(ranks) == std::vector<double>{11, 11});
    ranks.clear();
    CHECK(nccl_double_alive() == 2);
    CHECK(nccl_double_calls("CommFinalize") == 0);
    CHECK(nccl_double_calls("CommAbort") == 0);
  }
}

TEST_CASE("a borrowed communicator that failed is not aborted") {
  const NcclTest test;
  Trainer trainer(1);
  Ranks ranks = trainer.lend(kAmple);
  SUBCASE("by abort") { ranks[0]->abort("first reason"); }
  SUBCASE("by NCCL") {
    nccl_double_set("ASYNC_ERROR", "6");
    check_failed(outcome_of([&] { ranks[0]->poll(); }), SYNCNORM_NCCL_ERROR, {"remote"});
    nccl_double_set("ASYNC_ERROR", "");
  }
  SUBCASE("by a deadline") {
    simt::Gate gate(nullptr);
    check_failed(outcome_of([&] { ranks[0]->wait(nullptr, kShort); }), SYNCNORM_TIMEOUT, {"0.4 s"});
    gate.open();
  }
  const Outcome first = outcome_of([&] { ranks[0]->poll(); });
  REQUIRE(first);
  check_failed(outcome_of([&] { sum(*ranks[0], {1.0}); }), first->status(), {first->what()});
  ranks.clear();
  CHECK(nccl_double_calls("CommAbort") == 0);
  CHECK(nccl_double_alive() == 1);
}

TEST_CASE("what is split from a borrowed communicator is owned") {
  const NcclTest test;
  for (const bool blocking : {true, false}) {
    Trainer trainer(3, blocking);
    Ranks ranks = trainer.lend(kAmple);
    Ranks parts = split(ranks, {{0, 2}, {-1, 0}, {0, 1}});
    CHECK(parts[0]->rank() == 1);
    CHECK(parts[1] == nullptr);
    CHECK(roll_call(parts) == std::vector<double>{101, 0, 101});
    CHECK(nccl_double_alive() == 5);
    parts.clear();
    CHECK(nccl_double_alive() == 3);
  }
}

// NCCL's call does not return where a blocking communicator waits for the others; ours does.
TEST_CASE("a split of a blocking communicator to which not all ranks come") {
  const NcclTest test;
  Trainer trainer(2);
  Ranks ranks = trainer.lend(kShort);
  check_failed(outcome_of([&] { ranks[0]->split(0, 0); }), SYNCNORM_TIMEOUT,
               {"rank 0 of 2", "0.4 s", "ncclCommSplit"});
  // The other rank comes after all. Rank 0 aborts what NCCL makes now, and rank 1 is not connected.
  check_failed(outcome_of([&] { ranks[1]->split(0, 0); }), SYNCNORM_TIMEOUT,
               {"rank 1 of 2", "0.4 s", "ncclAllReduce"});
  await([] { return nccl_double_alive() == 2; });
}

TEST_CASE("a borrowed communicator has no watchdog") {
  const NcclTest test;
  Trainer trainer(1);
  Ranks ranks = trainer.lend(0.02);
  nccl_double_set("ASYNC_ERROR", "6");
  const auto polls = nccl_double_calls("CommGetAsyncError");
  sleep_for(0.1);
  CHECK(nccl_double_calls("CommGetAsyncError") == polls);
}

TEST_CASE("what cannot be borrowed") {
  const NcclTest test;
  const auto borrow = [](void* comm) {
    return outcome_of([&] { borrow_nccl_communicator(comm, timeouts(kShort, kShort)); });
  };
  check_failed(borrow(nullptr), SYNCNORM_INVALID_ARGUMENT, {"ncclComm_t is NULL"});
  {
    Trainer trainer(1);
    nccl_double_set("FAIL", "CommCount:1:4");
    check_failed(borrow(trainer.comm(0)), SYNCNORM_NCCL_ERROR,
                 {"a borrowed NCCL communicator", "ncclCommCount", "invalid argument (4)"});
  }
  nccl_double_set("STALL", "CommInitRankConfig");
  Trainer unready(1, false);
  check_failed(borrow(unready.comm(0)), SYNCNORM_TIMEOUT,
               {"a borrowed NCCL communicator", "0.4 s", "initialization"});
  unready.abort();
}

}  // namespace
