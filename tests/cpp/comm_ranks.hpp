// Groups of ranks in threads, and what became of their calls: the tools of comm_contract.hpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "doctest/doctest.h"
#include "support/error.hpp"

namespace syncnorm::contract {

using Ranks = std::vector<std::unique_ptr<Communicator>>;

struct Implementation {
  Ranks (*make)(int n, double timeout_s);  // the handles of one group; element i is rank i
  bool explains;                           // its messages name the ranks that are at fault
  syncnorm_device device = SYNCNORM_CPU;   // whose memory it sums
};

inline constexpr double kAmple = 60.0;  // s: for groups in which nobody is late
inline constexpr double kShort = 0.4;   // s: for groups in which somebody never comes

using Outcome = std::optional<Error>;  // nothing: the call went well

template <class Body>
Outcome outcome_of(Body&& body) {
  try {
    body();
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  }
}

// Runs body(rank's handle) in one thread per rank. doctest's assertions stay outside the threads.
inline std::vector<Outcome> on_every_rank(Ranks& ranks,
                                          const std::function<void(Communicator&)>& body) {
  std::vector<Outcome> outcomes(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] { outcomes[r] = outcome_of([&] { body(*ranks[r]); }); });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

inline void check_all_ok(const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    CHECK_MESSAGE(!outcome, (outcome ? outcome->what() : ""));
  }
}

inline void check_failed(const Outcome& outcome, syncnorm_status status,
                         const std::vector<std::string>& words) {
  REQUIRE(outcome);
  CHECK(outcome->status() == status);
  const std::string message = outcome->what();
  for (const std::string& word : words) {
    CHECK_MESSAGE(message.find(word) != std::string::npos, word << " is not in: " << message);
  }
}

// A failure of the group as a whole: who is at fault is told where the implementation can know.
inline void check_blamed(const Implementation& of, const Outcome& outcome, syncnorm_status status,
                         const std::vector<std::string>& words) {
  check_failed(outcome, status, of.explains ? words : std::vector<std::string>{});
}

// Complete when it returns. Of a device communicator the device is simulated: its memory is the
// host's.
inline std::vector<double> sum(Communicator& rank, const std::vector<double>& src) {
  std::vector<double> dst(src.size(), -1.0);
  const auto count = static_cast<std::int64_t>(src.size());
  const bool on_host = rank.device_memory() & 1 << SYNCNORM_CPU;
  rank.sum(src.data(), dst.data(), count, on_host ? SYNCNORM_CPU : SYNCNORM_CUDA, nullptr);
  rank.wait(nullptr, kAmple);
  return dst;
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

inline void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// Every member of `ranks` (which may hold nullptr) sums 10^rank: the digits say who was in the
// group.
inline std::vector<double> roll_call(Ranks& ranks) {
  std::vector<double> totals(ranks.size(), 0.0);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r]) continue;
    double digit = 1.0;
    for (std::size_t i = 0; i < r; ++i) digit *= 10.0;
    threads.emplace_back([&, r, digit] { totals[r] = sum(*ranks[r], {digit})[0]; });
  }
  for (std::thread& thread : threads) thread.join();
  return totals;
}

using ColorKey = std::pair<int, int>;

inline Ranks split(Ranks& ranks, const std::vector<ColorKey>& wishes) {
  Ranks parts(ranks.size());
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    const auto [color, key] = wishes[static_cast<std::size_t>(rank.rank())];
    parts[static_cast<std::size_t>(rank.rank())] = rank.split(color, key);
  }));
  return parts;
}

}  // namespace syncnorm::contract
