// What every host communicator owes its callers besides: its sums wait, and their failures are
// those of the group. Written once, run on each implementation.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm_contract_shared.hpp"

namespace syncnorm::contract {

inline void a_missing_rank_is_named(const Implementation& of) {
  Ranks ranks = of.make(4, kShort);
  check_all_ok(on_every_rank(ranks, [](Communicator& rank) { sum(rank, {1.0}); }));
  const auto outcomes = on_every_rank(ranks, [](Communicator& rank) {
    if (rank.rank() == 0 || rank.rank() == 2) sum(rank, {1.0, 2.0, 3.0});
  });
  check_blamed(of, outcomes[0], SYNCNORM_TIMEOUT,
               {"ranks 1, 3", "0.4 s", "call 2", "3 values", "4"});
  check_blamed(of, outcomes[2], SYNCNORM_TIMEOUT, {"ranks 1, 3"});

  // Who comes too late, or asks again, or only asks how things stand, hears the same.
  const std::string reason = outcomes[0]->what();
  for (auto& rank : ranks) {
    check_blamed(of, outcome_of([&] { sum(*rank, {1.0, 2.0, 3.0}); }), SYNCNORM_TIMEOUT, {reason});
    check_blamed(of, outcome_of([&] { rank->split(0, 0); }), SYNCNORM_TIMEOUT, {reason});
    check_blamed(of, outcome_of([&] { rank->poll(); }), SYNCNORM_TIMEOUT, {reason});
  }
}

inline void different_counts_are_refused(const Implementation& of) {
  Ranks ranks = of.make(3, kAmple);
  const auto begin = std::chrono::steady_clock::now();
  const auto outcomes = on_every_rank(
      ranks, [](Communicator& rank) { sum(rank, std::vector<double>(rank.rank() == 1 ? 5 : 4)); });
  const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
  CHECK(waited.count() < kAmple / 2);  // not by the deadline
  for (const Outcome& outcome : outcomes) {
    check_blamed(of, outcome, SYNCNORM_DESYNC,
                 {"rank 0: sum of 4 values", "rank 1: sum of 5 values", "rank 2: sum of 4 values"});
  }
  check_blamed(of, outcome_of([&] { ranks[0]->poll(); }), SYNCNORM_DESYNC,
               {"rank 1: sum of 5 values"});
}

inline void different_operations_are_refused(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  const auto outcomes = on_every_rank(ranks, [](Communicator& rank) {
    if (rank.rank() == 0) {
      sum(rank, {1.0, 2.0});
    } else {
      rank.split(0, 0);
    }
  });
  for (const Outcome& outcome : outcomes) {
    check_blamed(of, outcome, SYNCNORM_DESYNC, {"rank 0: sum of 2 values", "rank 1: split"});
  }
}

inline void a_splitting_rank_waits_only_to_the_deadline(const Implementation& of) {
  Ranks ranks = of.make(2, kShort);
  const Outcome outcome = outcome_of([&] { ranks[1]->split(0, 0); });
  check_blamed(of, outcome, SYNCNORM_TIMEOUT, {"rank 0", "split", "call 1"});
}

inline void a_destroyed_handle_fails_the_rest(const Implementation& of) {
  Ranks ranks = of.make(3, kAmple);
  check_all_ok(on_every_rank(ranks, [](Communicator& rank) { sum(rank, {1.0}); }));
  std::vector<Outcome> outcomes(3);
  std::vector<std::thread> threads;
  for (std::size_t r : {0U, 2U}) {
    threads.emplace_back([&, r] { outcomes[r] = outcome_of([&] { sum(*ranks[r], {1.0}); }); });
  }
  sleep_for(0.02);  // mostly they wait by now; the outcome is the same if they come later
  ranks[1].reset();
  for (std::thread& thread : threads) thread.join();
  check_blamed(of, outcomes[0], SYNCNORM_RANK_LOST, {"rank 1 left", "after 1 call"});
  check_blamed(of, outcomes[2], SYNCNORM_RANK_LOST, {"rank 1 left", "after 1 call"});
}

// Two threads come with the handle of rank 0. Rank 1 comes only when one of them has been refused.
inline void a_handle_serves_one_call_at_a_time(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  std::atomic<int> refused{0};
  std::vector<Outcome> outcomes(2);
  std::vector<double> totals(2);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      outcomes[i] = outcome_of([&] { totals[i] = sum(*ranks[0], {1.0})[0]; });
      if (outcomes[i]) ++refused;
    });
  }
  while (refused == 0) std::this_thread::yield();
  CHECK(sum(*ranks[1], {2.0})[0] == 3.0);
  for (std::thread& thread : threads) thread.join();
  const std::size_t other = outcomes[0] ? 0 : 1;
  check_failed(outcomes[other], SYNCNORM_INVALID_ARGUMENT, {"rank 0", "one call at a time"});
  CHECK(!outcomes[1 - other]);
  CHECK(totals[1 - other] == 3.0);
  CHECK(roll_call(ranks) == std::vector<double>(2, 11));  // and no harm was done
}

inline void check_contract(const Implementation& of) {
  check_shared_contract(of);
  SUBCASE("a missing rank is named") { a_missing_rank_is_named(of); }
  SUBCASE("different counts are refused") { different_counts_are_refused(of); }
  SUBCASE("different operations are refused") { different_operations_are_refused(of); }
  SUBCASE("a splitting rank has the deadline") { a_splitting_rank_waits_only_to_the_deadline(of); }
  SUBCASE("a destroyed handle fails the rest") { a_destroyed_handle_fails_the_rest(of); }
  SUBCASE("a handle serves one call at a time") { a_handle_serves_one_call_at_a_time(of); }
}

}  // namespace syncnorm::contract
