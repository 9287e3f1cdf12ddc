#include "engine/warp.hpp"

#include <algorithm>
#include <bit>
#include <string>

#include "engine/fault.hpp"
#include "engine/text.hpp"

namespace simt {

Warp::Warp(int first, int lanes)
    : first_(first), alive_(lanes == kWarp ? ~0u : (1u << lanes) - 1) {}

unsigned Warp::arrive(int lane, const Arrival& arrival) {
  if ((arrival.mask >> lane & 1) == 0)
    throw Fault{"lane " + std::to_string(lane) + " calls " + describe(arrival.call, arrival.where) +
                " with mask " + hex(arrival.mask) + ", which leaves it out"};
  arrivals_[lane] = arrival;
  waiting_ |= 1u << lane;
  return conclude(arrival.mask);
}

unsigned Warp::exit(int lane) {
  alive_ &= ~(1u << lane);
  unsigned done = 0;
  for (unsigned left = waiting_; left != 0; left &= left - 1)
    done |= conclude(arrivals_[std::countr_zero(left)].mask);
  return done;
}

void Warp::check_same(int first, int second) const {
  const Arrival& a = arrivals_[first];
  const Arrival& b = arrivals_[second];
  if (same_place(a.call, a.where, b.call, b.where)) return;
  throw Fault{"lanes of one warp wait for each other in different places: lane " +
              std::to_string(first) + " in " + describe(a.call, a.where) + ", lane " +
              std::to_string(second) + " in " + describe(b.call, b.where)};
}

unsigned Warp::conclude(unsigned mask) {
  const unsigned came = mask & alive_;
  if (came == 0 || (came & ~waiting_) != 0) return 0;
  const int lowest = std::countr_zero(came);
  unsigned in_favour = 0;
  std::uint32_t clock = 0;
  for (unsigned lanes = came; lanes != 0; lanes &= lanes - 1) {
    const int lane = std::countr_zero(lanes);
    if (arrivals_[lane].mask != mask) return 0;  // it comes here after another meeting
    check_same(lowest, lane);
    in_favour |= static_cast<unsigned>(arrivals_[lane].value != 0) << lane;
    clock = std::max(clock, arrivals_[lane].clock);
  }
  for (unsigned lanes = came; lanes != 0; lanes &= lanes - 1) {
    const int lane = std::countr_zero(lanes);
    const int source = arrivals_[lane].source;
    const std::uint64_t value = (came >> source & 1) != 0 ? arrivals_[source].value : ~0ull;
    outcomes_[lane] = {value, in_favour, came};
    arrivals_[lane].clock = clock;
  }
  waiting_ &= ~came;
  ++meetings_[std::countr_zero(mask)];
  return came;
}

void* Warp::token(unsigned mask) {
  const int lowest = std::countr_zero(mask);
  return &tokens_[lowest][meetings_[lowest] % 2];
}

}  // namespace simt
