#include "engine/latency.hpp"

#include <atomic>

#include "engine/block.hpp"
#include "simt.hpp"
#include "simt/latency.hpp"

namespace simt {
namespace {

std::atomic<std::uint32_t> latest = 0;

}  // namespace

void record_clock(std::uint32_t clock) {
  std::uint32_t known = latest.load(std::memory_order_relaxed);
  while (known < clock && !latest.compare_exchange_weak(known, clock, std::memory_order_relaxed)) {
  }
}

std::uint32_t dependent_loads() { return latest.load(std::memory_order_relaxed); }
void reset_dependent_loads() { latest.store(0, std::memory_order_relaxed); }

SIMT_NOT_OBSERVED std::uint32_t issue_load() { return Block::current().clock + 1; }

SIMT_NOT_OBSERVED void await_load(std::uint32_t arrives) {
  Thread& self = Block::current();
  if (self.clock < arrives) self.clock = arrives;
}

}  // namespace simt
