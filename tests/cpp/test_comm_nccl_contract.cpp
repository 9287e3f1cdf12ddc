// What an NCCL communicator has in common with every other, and its life from begin to end.
#include <numeric>

#include "comm_contract_shared.hpp"
#include "nccl_ranks.hpp"
#include "syncnorm/syncnorm.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

TEST_CASE("an NCCL communicator keeps the contract") {
  const NcclTest test;
  check_shared_contract({make_nccl_ranks, false, SYNCNORM_CUDA});
}

TEST_CASE("an NCCL communicator says what it is") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(2, kAmple);
  CHECK(std::string(ranks[1]->kind()) == "nccl");
  CHECK(ranks[1]->rank() == 1);
  CHECK(ranks[1]->size() == 2);
}

TEST_CASE("it is finalized, then destroyed, once") {
  const NcclTest test;
  make_nccl_ranks(3, kAmple).clear();
  CHECK(nccl_double_calls("CommInitRankConfig") == 3);
  CHECK(nccl_double_calls("CommFinalize") == 3);
  CHECK(nccl_double_calls("CommDestroy") == 3);
  CHECK(nccl_double_calls("CommAbort") == 0);
}

TEST_CASE("one thread makes all ranks of a process, and sums with all of them") {
  const NcclTest test;
  Ranks ranks = make_nccl_group({3, 0, 5}, timeouts(kAmple, kAmple));
  std::vector<double> src{1.0, 10.0, 100.0};
  std::vector<double> dst(3);
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(ranks[r]->rank() == static_cast<int>(r));
    CHECK(ranks[r]->size() == 3);
    ranks[r]->sum(&src[r], &dst[r], 1, SYNCNORM_CUDA, nullptr);
  }
  for (auto& rank : ranks) rank->wait(nullptr, kAmple);
  CHECK(dst == std::vector<double>(3, 111.0));
  CHECK(nccl_double_calls("GroupStart") == 2);  // to create and to connect
  CHECK(nccl_double_calls("GroupEnd") == 2);
}

TEST_CASE("a group of one") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(1, kAmple);
  CHECK(sum(*ranks[0], {1.0, 2.0}) == std::vector<double>{1.0, 2.0});
}

TEST_CASE("a sum of nothing is no call") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(2, kAmple);
  const long before = nccl_double_calls("AllReduce");
  ranks[0]->sum(nullptr, nullptr, 0, SYNCNORM_CUDA, nullptr);
  CHECK(nccl_double_calls("AllReduce") == before);
}

TEST_CASE("what takes its time is waited for") {
  const NcclTest test;
  nccl_double_set("SLOW_MS", "30");
  Ranks ranks = make_nccl_ranks(2, kAmple);
  CHECK(roll_call(ranks) == std::vector<double>{11, 11});
  Ranks parts = split(ranks, {{0, 1}, {0, 0}});
  CHECK(parts[0]->rank() == 1);
  CHECK(roll_call(parts) == std::vector<double>{11, 11});
}

TEST_CASE("ranks meet at an address of the environment") {
  const NcclTest test;
  const auto make = [](int rank) {
    return make_nccl_communicator(nullptr, rank, 2, rank, timeouts(kAmple, kAmple));
  };
  check_failed(outcome_of([&] { make(0); }), SYNCNORM_INVALID_ARGUMENT, {"NCCL_COMM_ID"});
  setenv("NCCL_COMM_ID", "10.0.0.1:4000", 1);
  Ranks ranks(2);
  std::thread other([&] { ranks[1] = make(1); });
  ranks[0] = make(0);
  other.join();
  unsetenv("NCCL_COMM_ID");
  CHECK(roll_call(ranks) == std::vector<double>{11, 11});
}

TEST_CASE("the C++ face") {
  const NcclTest test;
  const NcclOptions options{std::chrono::seconds(60), std::chrono::seconds(-1), 2};
  auto ranks = syncnorm::v0::Communicator::nccl_all({0, 1}, options);
  std::vector<double> src{1.0, 2.0};
  std::vector<double> dst(2);
  for (std::size_t r = 0; r < 2; ++r)
    ranks[r].sum({&src[r], 1}, {&dst[r], 1}, SYNCNORM_CUDA, nullptr);
  for (auto& rank : ranks) rank.wait(nullptr, std::chrono::seconds(60));
  CHECK(dst == std::vector<double>{3.0, 3.0});

  const auto id = syncnorm::v0::Communicator::nccl_id();
  auto one = syncnorm::v0::Communicator::nccl(id, 0, 1, 2);
  CHECK(one.kind() == "nccl");
  CHECK_THROWS_AS(one.wait(nullptr, std::chrono::seconds(0)), syncnorm::v0::InvalidArgument);
  CHECK_THROWS_AS(syncnorm::v0::Communicator::nccl_all({}), syncnorm::v0::InvalidArgument);
  CHECK_THROWS_AS(syncnorm::v0::Communicator::borrow_nccl(static_cast<void*>(nullptr)),
                  syncnorm::v0::InvalidArgument);
}

}  // namespace
