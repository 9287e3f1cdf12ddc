#include "comm/threads.hpp"

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "comm/interrupt.hpp"
#include "comm_contract.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

TEST_CASE("a threads communicator keeps the contract") {
  check_contract({make_thread_group, true});
}

TEST_CASE("a threads communicator says what it is") {
  CHECK(std::string(make_thread_group(1, kAmple)[0]->kind()) == "threads");
}

TEST_CASE("abort releases ranks that wait") {
  for (const double head_start : {0.0, 0.02}) {  // into the spinning, into the sleep
    Ranks ranks = make_thread_group(3, kAmple);
    std::vector<Outcome> outcomes(3);
    std::thread summing([&] { outcomes[0] = outcome_of([&] { sum(*ranks[0], {1.0}); }); });
    std::thread also_summing([&] { outcomes[1] = outcome_of([&] { sum(*ranks[1], {1.0}); }); });
    sleep_for(head_start);
    ranks[1]->abort("the trainer stops");  // by another thread than the one that waits in it
    summing.join();
    also_summing.join();
    outcomes[2] = outcome_of([&] { sum(*ranks[2], {1.0}); });
    for (const Outcome& outcome : outcomes) {
      check_failed(outcome, SYNCNORM_INTERNAL, {"rank 1", "the trainer stops"});
    }
  }
}

TEST_CASE("the first failure of a group stays") {
  Ranks ranks = make_thread_group(3, kShort);
  CHECK(outcome_of([&] { sum(*ranks[0], {1.0}); })->status() == SYNCNORM_TIMEOUT);
  ranks[1]->abort("too late to matter");
  ranks[2].reset();
  check_failed(outcome_of([&] { ranks[1]->poll(); }), SYNCNORM_TIMEOUT, {"missing: ranks 1, 2"});
}

// Ranks that come around the deadline: either all of them get the sum or none does, and who is
// blamed did not come.
TEST_CASE("a call has one outcome for all ranks, also at the deadline") {
  constexpr double kDeadline = 0.004;
  int timeouts = 0;
  for (int repeat = 0; repeat < 60; ++repeat) {
    Ranks ranks = make_thread_group(3, kDeadline);
    const double delay = kDeadline * (0.9 + repeat * 0.004);
    const auto outcomes = on_every_rank(ranks, [delay](Communicator& rank) {
      if (rank.rank() > 0) sleep_for(delay);
      sum(rank, {1.0});
    });
    for (const Outcome& outcome : outcomes) REQUIRE(!outcome == !outcomes[0]);
    if (!outcomes[0]) continue;
    ++timeouts;
    for (const Outcome& outcome : outcomes) {
      check_failed(outcome, SYNCNORM_TIMEOUT, {"missing: rank", outcomes[0]->what()});
    }
  }
  MESSAGE(timeouts << " of 60 groups timed out");
}

TEST_CASE("more ranks than cores make progress") {
  const int n = 4 * static_cast<int>(std::max(2u, std::thread::hardware_concurrency()));
  Ranks ranks = make_thread_group(n, kAmple);
  check_all_ok(on_every_rank(ranks, [](Communicator& rank) {
    for (int round = 0; round < 200; ++round) sum(rank, {1.0, 2.0});
  }));
}

// Sums and splits in turn, with groups that live for a moment: work for the sanitizers.
TEST_CASE("groups come and go") {
  Ranks ranks = make_thread_group(4, kAmple);
  std::atomic<int> wrong{0};
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    for (int round = 0; round < 50; ++round) {
      const int color = (rank.rank() + round) % 3 - (round % 5 == 0);
      const std::unique_ptr<Communicator> part = rank.split(color, -rank.rank());
      if (part && sum(*part, {1.0})[0] != part->size()) ++wrong;
      if (sum(rank, {1.0})[0] != 4.0) ++wrong;
    }
  }));
  CHECK(wrong == 0);
}

TEST_CASE("NaN and infinity pass through a sum") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Ranks ranks = make_thread_group(2, kAmple);
  std::vector<double> total;
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    const double sign = rank.rank() ? -1.0 : 1.0;
    auto sums = sum(rank, {kInfinity, sign * kInfinity, rank.rank() ? std::nan("") : 1.0});
    if (rank.rank() == 1) total = std::move(sums);
  }));
  CHECK(total[0] == kInfinity);
  CHECK(std::isnan(total[1]));
  CHECK(std::isnan(total[2]));
}

// What the checks of the tests do, each in the thread that installs it.
thread_local int looks = 0;
thread_local Communicator* polled = nullptr;

int never() {
  ++looks;
  return 0;
}

int at_the_third_look() { return ++looks == 3; }

int poll_and_stop() {
  polled->poll();  // no lock is held
  return ++looks == 3;
}

TEST_CASE("a check of the waiting thread ends its wait and fails the group") {
  Ranks ranks = make_thread_group(3, kAmple);
  const auto outcomes = on_every_rank(ranks, [&](Communicator& rank) {
    if (rank.rank() == 2) return;
    if (rank.rank() == 0) {
      looks = 0;
      polled = &rank;
      set_interrupt_check(&poll_and_stop);
    }
    sum(rank, {1.0});
  });
  const std::vector<std::string> words = {"rank 0 was interrupted", "sum of 1 values",
                                          "missing: rank 2"};
  check_failed(outcomes[0], SYNCNORM_INTERNAL, words);
  check_failed(outcomes[1], SYNCNORM_INTERNAL, words);
  check_failed(outcome_of([&] { ranks[2]->poll(); }), SYNCNORM_INTERNAL, words);
}

TEST_CASE("a check that lets the wait go on") {
  Ranks ranks = make_thread_group(2, kAmple);
  std::atomic<int> seen{0};
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    looks = 0;
    set_interrupt_check(&never);
    if (rank.rank() == 1) sleep_for(kShort);
    sum(rank, {1.0});
    if (rank.rank() == 0) seen = looks;
  }));
  CHECK(seen > 0);
  ranks = make_thread_group(2, kShort);
  set_interrupt_check(&never);
  const Outcome late = outcome_of([&] { sum(*ranks[0], {1.0}); });
  set_interrupt_check(nullptr);
  check_failed(late, SYNCNORM_TIMEOUT, {"missing: rank 1"});
}

// A rank that comes at the moment of the interrupt: both get the sum, or both the failure.
TEST_CASE("a call has one outcome for all ranks, also when it is interrupted") {
  for (int repeat = 0; repeat < 30; ++repeat) {
    Ranks ranks = make_thread_group(2, kAmple);
    const auto outcomes = on_every_rank(ranks, [repeat](Communicator& rank) {
      looks = 0;
      if (rank.rank() == 0) set_interrupt_check(&at_the_third_look);
      if (rank.rank() == 1) sleep_for(0.14 + repeat * 0.001);
      sum(rank, {1.0});
    });
    REQUIRE(!outcomes[0] == !outcomes[1]);
    if (outcomes[0]) check_failed(outcomes[1], SYNCNORM_INTERNAL, {"rank 0 was interrupted"});
  }
}

TEST_CASE("wrong groups are refused") {
  const auto make = [](int n, double timeout_s) {
    return outcome_of([&] { make_thread_group(n, timeout_s); });
  };
  check_failed(make(0, 1.0), SYNCNORM_INVALID_ARGUMENT, {"ranks is 0", "at least 1"});
  check_failed(make(-3, 1.0), SYNCNORM_INVALID_ARGUMENT, {"-3"});
  for (const double timeout_s : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    check_failed(make(2, timeout_s), SYNCNORM_INVALID_ARGUMENT, {"timeout"});
  }
}

}  // namespace
