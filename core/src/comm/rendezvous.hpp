// Where the ranks of one process meet, call by call.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "support/error.hpp"

namespace syncnorm {

enum class Operation { kSum, kSplit };

// What a rank brings to a meeting. All ranks must bring the same operation and count.
struct Call {
  Operation operation = Operation::kSum;
  std::int64_t count = 0;
  int color = 0;
  int key = 0;
};

// A meeting has one outcome: every rank returns from it, or every rank throws the same Error. The
// outcome is decided in one atomic word that holds the number of arrivals and the failed bit:
// arrivals stop counting once the bit is set, so a meeting is complete exactly if it filled before
// the failure.
class Rendezvous {
 public:
  Rendezvous(int size, double timeout_s);

  int size() const noexcept { return static_cast<int>(slots_.size()); }
  double timeout_s() const noexcept { return timeout_s_; }

  // Brings `call` as rank's meeting number `number` (1, 2, ...), returns when all ranks have come.
  void meet(int rank, std::uint64_t number, const Call& call);

  // What `rank` brought to meeting `number`; to be read between this rank's meeting and its next.
  const Call& brought(int rank, std::uint64_t number) const noexcept {
    return slot(rank).calls[number & 1];
  }

  // Releases all ranks that wait. The first failure stays.
  void fail(syncnorm_status status, const std::string& message);
  // Throws the failure, if there was one.
  void poll() const;

 private:
  static constexpr std::uint64_t kFailed = 1;
  static constexpr std::uint64_t kArrival = 2;
  static constexpr std::size_t kCacheLine = 64;

  struct alignas(kCacheLine) Slot {
    std::atomic<std::uint64_t> arrived{0};  // the last meeting this rank came to
    std::array<Call, 2> calls;              // a rank is never two meetings ahead of a reader
  };

  Slot& slot(int rank) noexcept { return slots_[static_cast<std::size_t>(rank)]; }
  const Slot& slot(int rank) const noexcept { return slots_[static_cast<std::size_t>(rank)]; }
  bool complete(std::uint64_t state, std::uint64_t number) const noexcept {
    return state / kArrival >= number * slots_.size();
  }
  bool settled(std::uint64_t number) const noexcept;
  void arrive(int rank, std::uint64_t number);
  void await(int rank, std::uint64_t number, const Call& call);
  bool settles_soon(std::uint64_t number) const noexcept;
  void sleep(int rank, std::uint64_t number, const Call& call);
  bool claim_failure(std::uint64_t number, std::uint64_t& state) noexcept;
  void fail_interrupted(int rank, std::uint64_t number, const Call& call);
  void time_out(int rank, std::uint64_t number, const Call& call);
  std::string missing(std::uint64_t number, std::uint64_t state) const;
  void check_agreement(std::uint64_t number);

  const double timeout_s_;
  const bool enough_cores_;
  std::vector<Slot> slots_;

  alignas(kCacheLine) std::atomic<std::uint64_t> state_{0};
  std::atomic<int> sleepers_{0};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<Error> reason_;  // set under mutex_ together with kFailed
};

}  // namespace syncnorm
