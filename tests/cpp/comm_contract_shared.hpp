// What every communicator owes its callers, whatever memory it sums. Written once, run on each
// implementation.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm_ranks.hpp"

namespace syncnorm::contract {

inline void identity(const Implementation& of) {
  for (const int n : {1, 2, 3, 8}) {
    Ranks ranks = of.make(n, kAmple);
    REQUIRE(static_cast<int>(ranks.size()) == n);
    for (int r = 0; r < n; ++r) {
      Communicator& rank = *ranks[static_cast<std::size_t>(r)];
      CHECK(rank.rank() == r);
      CHECK(rank.size() == n);
      CHECK(rank.device_memory() == 1 << of.device);
      CHECK_NOTHROW(rank.poll());
    }
  }
}

// Rounds with changing counts (0 and more than a block among them) and no pause between them.
// Integer values sum exactly; a buffer that is reused too early shows as the number of another
// round.
inline void sums_are_exact(const Implementation& of) {
  constexpr int kRounds = 300;
  for (const int n : {1, 2, 3, 8}) {
    Ranks ranks = of.make(n, kAmple);
    std::atomic<int> wrong{0};
    check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
      for (int round = 0; round < kRounds; ++round) {
        std::vector<double> src(static_cast<std::size_t>(round * 37 % 1500));
        for (std::size_t i = 0; i < src.size(); ++i) {
          src[i] = round * 1e6 + static_cast<double>(i) * 10 + rank.rank();
        }
        const std::vector<double> dst = sum(rank, src);
        for (std::size_t i = 0; i < src.size(); ++i) {
          const double expected = n * (round * 1e6 + static_cast<double>(i) * 10) + n * (n - 1) / 2;
          if (dst[i] != expected) ++wrong;
        }
      }
    }));
    CHECK(wrong == 0);
  }
}

// Values whose sum depends on the order of the additions.
inline void sums_have_the_same_bits(const Implementation& of) {
  for (const int n : {2, 3, 8}) {
    Ranks ranks = of.make(n, kAmple);
    std::vector<std::vector<double>> totals(ranks.size());
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::vector<double> before = totals[0];
      check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
        std::vector<double> src(700);
        for (std::size_t i = 0; i < src.size(); ++i) {
          src[i] = (rank.rank() % 2 ? -1e15 : 1e15) / (1.0 + rank.rank()) +
                   1.0 / (3.0 + static_cast<double>(i) + rank.rank());
        }
        totals[static_cast<std::size_t>(rank.rank())] = sum(rank, src);
      }));
      for (const auto& total : totals) CHECK(same_bits(total, totals[0]));
      if (repeat > 0) CHECK(same_bits(before, totals[0]));
    }
  }
}

inline void a_late_rank_is_waited_for(const Implementation& of) {
  Ranks ranks = of.make(3, kAmple);
  std::vector<double> totals(3);
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    if (rank.rank() == 1) sleep_for(0.05);  // longer than any spinning
    totals[static_cast<std::size_t>(rank.rank())] = sum(rank, {1.0 + rank.rank()})[0];
  }));
  for (const double total : totals) CHECK(total == 6.0);
}

inline void other_memory_is_refused(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  double value = 1.0;
  double total = 0.0;
  const syncnorm_device other = of.device == SYNCNORM_CPU ? SYNCNORM_CUDA : SYNCNORM_CPU;
  const Outcome refused = outcome_of([&] { ranks[0]->sum(&value, &total, 1, other, nullptr); });
  check_failed(refused, SYNCNORM_UNSUPPORTED, {"memory"});
  // Refused before anything happened: the group still works.
  check_all_ok(on_every_rank(ranks, [](Communicator& rank) { sum(rank, {1.0}); }));
}

inline void split_into_halves_and_reversed(const Implementation& of) {
  Ranks ranks = of.make(5, kAmple);
  Ranks parts = split(ranks, {{7, 0}, {2, 0}, {7, 0}, {2, 0}, {7, 0}});
  CHECK(parts[4]->size() == 3);
  CHECK(parts[4]->rank() == 2);
  CHECK(parts[3]->size() == 2);
  CHECK(parts[3]->rank() == 1);
  CHECK(roll_call(parts) == std::vector<double>{10101, 1010, 10101, 1010, 10101});

  Ranks reversed = split(ranks, {{0, 4}, {0, 3}, {0, 2}, {0, 1}, {0, 0}});
  for (std::size_t r = 0; r < 5; ++r) CHECK(reversed[4 - r]->rank() == static_cast<int>(r));
  CHECK(roll_call(reversed) == std::vector<double>(5, 11111));

  Ranks ties = split(ranks, {{0, 1}, {0, -5}, {0, 1}, {0, -5}, {0, 0}});
  const std::vector<int> expected{3, 0, 4, 1, 2};
  for (std::size_t r = 0; r < 5; ++r) CHECK(ties[r]->rank() == expected[r]);
}

inline void split_can_leave_ranks_out(const Implementation& of) {
  Ranks ranks = of.make(3, kAmple);
  Ranks parts = split(ranks, {{0, 0}, {-1, 0}, {0, 0}});
  CHECK(parts[1] == nullptr);
  CHECK(roll_call(parts) == std::vector<double>{101, 0, 101});

  Ranks nobody = split(ranks, {{-1, 0}, {-1, 0}, {-7, 0}});
  for (const auto& rank : nobody) CHECK(rank == nullptr);
  CHECK(roll_call(ranks) == std::vector<double>(3, 111));
}

inline void splits_can_be_nested(const Implementation& of) {
  Ranks ranks = of.make(8, kAmple);
  Ranks halves = split(ranks, {{0, 0}, {0, 0}, {0, 0}, {0, 0}, {1, 0}, {1, 0}, {1, 0}, {1, 0}});
  Ranks pairs(8);  // of each half: its even and its odd ranks
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < 8; ++r) {
    threads.emplace_back([&, r] { pairs[r] = halves[r]->split(halves[r]->rank() % 2, 0); });
  }
  for (std::thread& thread : threads) thread.join();
  const double a = 101, b = 1010, c = 1010000, d = 10100000;
  CHECK(roll_call(pairs) == std::vector<double>{a, b, a, b, c, d, c, d});
  CHECK(roll_call(halves) ==
        std::vector<double>{1111, 1111, 1111, 1111, 11110000, 11110000, 11110000, 11110000});
  CHECK(roll_call(ranks) == std::vector<double>(8, 11111111));
}

inline void a_part_outlives_its_parent(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  Ranks parts = split(ranks, {{0, 0}, {0, 0}});
  ranks.clear();
  CHECK(roll_call(parts) == std::vector<double>(2, 11));
}

inline void a_failed_part_leaves_its_parent_alone(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  Ranks parts = split(ranks, {{0, 0}, {0, 0}});
  parts[0]->abort("only this part");
  check_failed(outcome_of([&] { sum(*parts[0], {1.0}); }), SYNCNORM_INTERNAL, {"only this part"});
  CHECK(roll_call(ranks) == std::vector<double>(2, 11));
}

inline void abort_is_for_good(const Implementation& of) {
  Ranks ranks = of.make(2, kAmple);
  ranks[0]->abort("first reason");
  ranks[0]->abort("second reason");
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Outcome outcome = outcome_of([&] { sum(*ranks[0], {1.0}); });
    check_failed(outcome, SYNCNORM_INTERNAL, {"first reason", "rank 0"});
  }
  check_failed(outcome_of([&] { ranks[0]->poll(); }), SYNCNORM_INTERNAL, {"first reason"});
}

// A rank may be done, and gone, before the others have seen that the last sum is complete.
inline void ranks_may_leave_after_the_last_call(const Implementation& of) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    Ranks ranks = of.make(3, kAmple);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < 3; ++r) {
      threads.emplace_back([&, r] {
        const std::unique_ptr<Communicator> rank = std::move(ranks[r]);
        if (outcome_of([&] { wrong += sum(*rank, {1.0})[0] != 3.0; })) ++wrong;
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
  }
}

inline void check_shared_contract(const Implementation& of) {
  SUBCASE("identity") { identity(of); }
  SUBCASE("sums are exact") { sums_are_exact(of); }
  SUBCASE("sums have the same bits") { sums_have_the_same_bits(of); }
  SUBCASE("a late rank is waited for") { a_late_rank_is_waited_for(of); }
  SUBCASE("other memory is refused") { other_memory_is_refused(of); }
  SUBCASE("split into halves and reversed") { split_into_halves_and_reversed(of); }
  SUBCASE("split can leave ranks out") { split_can_leave_ranks_out(of); }
  SUBCASE("splits can be nested") { splits_can_be_nested(of); }
  SUBCASE("a part outlives its parent") { a_part_outlives_its_parent(of); }
  SUBCASE("a failed part leaves its parent alone") { a_failed_part_leaves_its_parent_alone(of); }
  SUBCASE("abort is for good") { abort_is_for_good(of); }
  SUBCASE("ranks may leave after the last call") { ranks_may_leave_after_the_last_call(of); }
}

}  // namespace syncnorm::contract
