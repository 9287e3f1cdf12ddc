// The meetings of a warp's lanes: shuffles, votes, __syncwarp.
#pragma once

#include <array>
#include <cstdint>
#include <source_location>

#include "simt/warp.hpp"

namespace simt {

constexpr int kWarp = 32;

// What a lane brings to a meeting.
struct Arrival {
  const char* call = nullptr;  // its name
  std::source_location where;
  unsigned mask = 0;
  std::uint64_t value = 0;
  int source = 0;
  std::uint32_t clock = 0;  // see simt/latency.hpp
};

class Warp {
 public:
  // Of `lanes` threads, of which the first is number `first` of the block.
  Warp(int first, int lanes);

  int first() const { return first_; }
  bool waits(int lane) const { return (waiting_ >> lane & 1) != 0; }
  const Arrival& arrival(int lane) const { return arrivals_[lane]; }

  // Returns the lanes whose meeting is now complete, 0 while it is not. Throws Fault where they
  // have not come for the same thing.
  unsigned arrive(int lane, const Arrival& arrival);
  unsigned exit(int lane);
  const Meeting& outcome(int lane) const { return outcomes_[lane]; }
  std::uint32_t clock(int lane) const { return arrivals_[lane].clock; }  // after its meeting

  // What the lanes of `mask` release before a meeting and acquire after it: two in turn, so that
  // one that is early at the next meeting gives nothing to those late at this one.
  void* token(unsigned mask);

 private:
  unsigned conclude(unsigned mask);
  void check_same(int first, int second) const;

  int first_;
  unsigned alive_;
  unsigned waiting_ = 0;
  std::array<Arrival, kWarp> arrivals_;
  std::array<Meeting, kWarp> outcomes_{};
  std::array<unsigned, kWarp> meetings_{};  // by the lowest lane of the mask
  std::array<std::array<char, 2>, kWarp> tokens_{};
};

}  // namespace simt
