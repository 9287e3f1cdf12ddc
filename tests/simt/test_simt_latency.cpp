// The clocks that count dependent loads.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::launch;
using simt_test::require;
using simt_test::Shape;

namespace {

constexpr unsigned kAll = 0xffffffffu;

// As code under test wraps its loads.
class InFlight {
 public:
  explicit InFlight(const int* address)
      : value_(simt::load(address)), arrives_(simt::issue_load()) {}
  int get() const {
    simt::await_load(arrives_);
    return value_;
  }

 private:
  int value_;
  std::uint32_t arrives_;
};

__global__ void nothing() {}
__global__ void batch(const int* x, int* sum) {
  const InFlight loads[] = {InFlight(x), InFlight(x + 1), InFlight(x + 2), InFlight(x + 3)};
  int total = 0;
  for (const InFlight& load : loads) total += load.get();
  if (threadIdx.x == 0) *sum = total;
}
__global__ void one_by_one(const int* x, int* sum) {
  int total = 0;
  for (int i = 0; i < 4; ++i) total += InFlight(x + i).get();
  if (threadIdx.x == 0) *sum = total;
}
__global__ void never_awaited(const int* x) { const InFlight load(x); }
__global__ void cached_loads(const int* x, int* sum) {
  const int total = __ldg(x) + __ldca(x) + __ldcg(x) + __ldcs(x) + __ldcv(x);
  if (threadIdx.x == 0) *sum = total;
}

__device__ void wait(int loads) {
  while (loads-- > 0) simt::await_load(simt::issue_load());
}

__global__ void block_barriers() {
  const int thread = static_cast<int>(threadIdx.x);
  wait(thread == 40 ? 3 : 1);
  __syncthreads();
  wait(thread == 1 ? 2 : 0);
  __syncthreads_or(thread);
  wait(thread == 33 ? 4 : 2);
}
__global__ void exited_before_barrier() {
  if (threadIdx.x == 0) return wait(5);
  __syncthreads();
  wait(4);
}
__global__ void warp_meetings(int steps) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (threadIdx.x >= 32) return wait(1);
  wait(lane == 3 ? 2 : 0);
  if (steps > 0) __shfl_sync(kAll, lane, 0);
  wait(lane == 4 ? 2 : 0);
  if (steps > 1) __ballot_sync(kAll, lane);
  wait(lane == 5 ? 2 : 0);
  if (steps > 2) __syncwarp();
  wait(lane == 6 ? 2 : 0);
}
__global__ void half_warps() {
  const bool low = threadIdx.x < 16;
  wait(low ? 4 : 1);
  __syncwarp(low ? 0x0000ffffu : 0xffff0000u);
  wait(low ? 0 : 2);
}
__global__ void grid_barriers() {
  wait(blockIdx.x == 1 && threadIdx.x == 2 ? 7 : 1);
  cooperative_groups::this_grid().sync();
  wait(1);
  cooperative_groups::this_grid().sync();
  wait(blockIdx.x == 0 ? 2 : 0);
}
__global__ void global_atomics(unsigned* word) {
  if (threadIdx.x != 0) return;
  atomicInc(word, 100);
  atomicAdd(word, 1);
}
__global__ void shared_atomics() {
  __shared__ unsigned word;
  auto* const dynamic = reinterpret_cast<unsigned*>(simt::dynamic_shared());
  atomicAdd(&word, 1);
  atomicAdd(dynamic + threadIdx.x, 1);
}

template <class... Parameters, class... Arguments>
std::uint32_t loads_of(const Shape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  simt::reset_dependent_loads();
  require(launch(shape, kernel, arguments...));
  return simt::dependent_loads();
}

}  // namespace

TEST_CASE("loads that are issued together arrive together") {
  Buffer<int> x(4), sum(1);
  for (int i = 0; i < 4; ++i) x[static_cast<std::size_t>(i)] = i;
  CHECK(loads_of({}, nothing) == 0);
  CHECK(loads_of({}, batch, x.get(), sum.get()) == 1);
  CHECK(sum[0] == 6);
  CHECK(loads_of({}, one_by_one, x.get(), sum.get()) == 4);
  CHECK(loads_of({}, never_awaited, x.get()) == 0);
  CHECK(loads_of({}, cached_loads, x.get(), sum.get()) == 5);
}

TEST_CASE("clocks meet at barriers") {
  CHECK(loads_of({.block = 64}, block_barriers) == 3 + 2 + 4);
  CHECK(loads_of({.block = 64}, exited_before_barrier) == 5);
  CHECK(loads_of({.block = 8, .cooperative = false}, exited_before_barrier) == 5);
  CHECK(loads_of({.grid = 3, .cooperative = true}, grid_barriers) == 7 + 1 + 2);
}

TEST_CASE("clocks of a warp meet in shuffles, votes and __syncwarp") {
  for (int steps = 0; steps < 4; ++steps)
    CHECK(loads_of({.block = 64}, warp_meetings, steps) == 2 * (static_cast<unsigned>(steps) + 1));
  CHECK(loads_of({}, half_warps) == 4);
}

TEST_CASE("an atomic operation on global memory takes one latency, on shared memory none") {
  Buffer<unsigned> word(1);
  CHECK(loads_of({.grid = 3}, global_atomics, word.get()) == 2);
  CHECK(loads_of({.dynamic_bytes = 128}, shared_atomics) == 0);
}

TEST_CASE("the longest chain of all launches since the last reset") {
  Buffer<int> x(4), sum(1);
  simt::reset_dependent_loads();
  require(launch({}, one_by_one, x.get(), sum.get()));
  require(launch({}, batch, x.get(), sum.get()));
  CHECK(simt::dependent_loads() == 4);
  simt::reset_dependent_loads();
  CHECK(simt::dependent_loads() == 0);
}
