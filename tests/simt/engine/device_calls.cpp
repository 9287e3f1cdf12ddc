// What the headers under include/simt/ call, on behalf of the CUDA thread that runs.
#include "engine/block.hpp"
#include "engine/text.hpp"
#include "simt/atomics.hpp"
#include "simt/cluster.hpp"
#include "simt/dependency.hpp"
#include "simt/latency.hpp"
#include "simt/memory.hpp"

namespace simt {

unsigned char* dynamic_shared() {
  return reinterpret_cast<unsigned char*>(Block::current().block->dynamic_shared());
}

int lane() { return Block::current().number % kWarp; }

Votes block_barrier(const char* call, bool predicate, const std::source_location& where) {
  Thread& self = Block::current();
  return self.block->barrier(self, call, predicate, where);
}

void grid_barrier(const std::source_location& where) {
  Thread& self = Block::current();
  self.block->grid_barrier(self, where);
}

void await_dependency(const std::source_location& where) {
  Thread& self = Block::current();
  self.block->await_dependency(self, where);
}

void cluster_barrier(const std::source_location& where) {
  Thread& self = Block::current();
  self.block->cluster_barrier(self, where);
}

unsigned cluster_rank() { return Block::current().block->cluster_rank(); }
unsigned cluster_size() {
  const dim3& size = Block::current().block->grid().cluster;
  return size.x * size.y * size.z;
}

void* map_shared(void* address, unsigned rank) {
  Thread& self = Block::current();
  return self.block->map_shared(self, static_cast<std::byte*>(address), rank);
}

bool in_cooperative_launch() { return Block::current().block->grid().cooperative; }

Meeting warp_meeting(const char* call, unsigned mask, std::uint64_t value, int source,
                     const std::source_location& where) {
  Thread& self = Block::current();
  return self.block->meet(self, {call, where, mask, value, source, self.clock});
}

AtomicAccess::AtomicAccess(void* address) : address_(address) {
  Thread& self = Block::current();
  self.block->sometimes_let_others_run(self);
  self.block->publish(address);
  if (!self.block->is_shared(address)) await_load(issue_load());
}

AtomicAccess::~AtomicAccess() { acquire(address_); }

void device_fence() { Block::current().block->fence(); }

void nap() {
  Thread& self = Block::current();
  self.block->let_others_run(self);
}

void misaligned(const void* address, unsigned long alignment) {
  Thread& self = Block::current();
  self.block->fail(self, "access to " + hex(reinterpret_cast<std::uintptr_t>(address)) +
                             ", which is not aligned to " + std::to_string(alignment) + " bytes");
}

}  // namespace simt
