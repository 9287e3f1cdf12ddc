// What CUDA defines comes out as CUDA defines it.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::launch;
using simt_test::require;

namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void where_am_i(uint3* threads, uint3* blocks) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
  threads[i] = threadIdx;
  blocks[i] = blockIdx;
}

__global__ void shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(kAll, lane, 5);
  out[32 + lane] = __shfl_sync(kAll, lane, 9, 8);
  out[64 + lane] = __shfl_up_sync(kAll, lane, 3, 16);
  out[96 + lane] = __shfl_down_sync(kAll, lane, 3, 16);
  out[128 + lane] = __shfl_xor_sync(kAll, lane, 12);
  out[160 + lane] = __shfl_xor_sync(kAll, lane, 12, 8);
}

__global__ void shuffle_types(double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const double d = __shfl_sync(kAll, lane + 0.25, 7);
  const float f = __shfl_sync(kAll, static_cast<float>(lane) + 0.5f, 8);
  const long long l = __shfl_sync(kAll, (1ll << 40) + lane, 9);
  const __half h = __shfl_sync(kAll, __float2half_rn(static_cast<float>(lane)), 10);
  out[lane] = d + f + static_cast<double>(l) + __half2float(h);
}

__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  if (lane >= 24) return;  // who has exited is not waited for
  const unsigned results[] = {
      __ballot_sync(kAll, lane % 3 == 0), static_cast<unsigned>(__any_sync(kAll, lane == 23)),
      static_cast<unsigned>(__any_sync(kAll, 0)), static_cast<unsigned>(__all_sync(kAll, 1)),
      static_cast<unsigned>(__all_sync(kAll, lane != 3))};
  for (int i = 0; lane == 5 && i < 5; ++i) out[i] = results[i];
}

// Two halves of a warp that do different things.
__global__ void halves(int* out) {
  const unsigned lane = threadIdx.x;
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int value = static_cast<int>(lane);
  if (lane < 16) {
    for (int bits = 8; bits > 0; bits /= 2) value += __shfl_xor_sync(half, value, bits);
  } else {
    value = __shfl_sync(half, value, 31);
    __syncwarp(half);
  }
  out[lane] = value;
}

__global__ void block_votes(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= 90) return;  // nor at a barrier
  const int results[] = {__syncthreads_count(thread % 2), __syncthreads_or(thread == 70),
                         __syncthreads_or(0), __syncthreads_and(thread >= 0),
                         __syncthreads_and(thread != 70)};
  for (int i = 0; thread == 80 && i < 5; ++i) out[i] = results[i];
}

__global__ void atomics(unsigned* u, float* f, unsigned long long* l, int* i) {
  atomicAdd(&u[0], 1u);
  atomicInc(&u[1], 6);
  atomicMax(&u[2], threadIdx.x);
  atomicExch(&u[3], 9u);
  atomicCAS(&u[4], 0u, 4u);
  atomicAdd(f, 0.5f);
  atomicAdd(l, 1ull << 33);
  atomicMin(i, -static_cast<int>(threadIdx.x));
}

// The sums over rows of x, each by all blocks: the last block of a row adds up its parts.
__global__ void row_sums(const float* x, int width, float* parts, unsigned* tickets, float* sums) {
  __shared__ float warps[4];
  __shared__ bool last;
  float sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < width;
       i += static_cast<int>(gridDim.x * blockDim.x))
    sum += __ldg(x + static_cast<int>(blockIdx.y) * width + i);
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(kAll, sum, bits);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  float* const row = parts + blockIdx.y * gridDim.x;
  if (threadIdx.x == 0) {
    row[blockIdx.x] = warps[0] + warps[1] + warps[2] + warps[3];
    __threadfence();
    last = atomicInc(&tickets[blockIdx.y], gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  float total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += __ldcg(row + b);
  sums[blockIdx.y] = total;
}

__global__ void turns(int* values, int rounds) {
  const auto grid = cooperative_groups::this_grid();
  const unsigned next = (blockIdx.x + 1) % gridDim.x;
  for (int round = 0; round < rounds; ++round) {
    const int got = values[next];
    grid.sync();
    if (threadIdx.x == 0) values[blockIdx.x] = got + (grid.is_valid() ? 1 : 1000);
    grid.sync();
  }
}

__global__ void read_garbage(bool write, float* fixed, unsigned* dynamic) {
  __shared__ float values[32];
  const auto* words = reinterpret_cast<unsigned*>(simt::dynamic_shared());
  if (write) values[threadIdx.x] = 0;
  fixed[threadIdx.x] = values[threadIdx.x];
  dynamic[threadIdx.x] = words[threadIdx.x];
}

__global__ void note_order(unsigned* order, unsigned* place) {
  order[atomicAdd(place, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> order_of_threads(std::uint64_t seed) {
  simt::set_seed(seed);
  Buffer<unsigned> order(160), place(1);
  require(launch({.grid = 5}, note_order, order.get(), place.get()));
  return order.values();
}

}  // namespace

TEST_CASE("threads and blocks know their place") {
  const dim3 grid(3, 2, 2), block(4, 3, 5);
  Buffer<uint3> threads(12 * 60), blocks(12 * 60);
  require(launch({.grid = grid, .block = block}, where_am_i, threads.get(), blocks.get()));
  for (unsigned i = 0; i < 12 * 60; ++i) {
    CHECK(threads[i].x + 4 * (threads[i].y + 3 * threads[i].z) == i % 60);
    CHECK(blocks[i].x + 3 * (blocks[i].y + 2 * blocks[i].z) == i / 60);
  }
}

TEST_CASE("shuffles, within segments as well") {
  Buffer<int> out(192);
  require(launch({}, shuffles, out.get()));
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = [&](int part) { return out[static_cast<std::size_t>(32 * part + lane)]; };
    CHECK(at(0) == 5);
    CHECK(at(1) == lane / 8 * 8 + 1);
    CHECK(at(2) == (lane % 16 < 3 ? lane : lane - 3));
    CHECK(at(3) == (lane % 16 > 12 ? lane : lane + 3));
    CHECK(at(4) == (lane ^ 12));
    CHECK(at(5) == ((lane ^ 12) > (lane | 7) ? lane : lane ^ 12));
  }
  Buffer<double> types(32);
  require(launch({}, shuffle_types, types.get()));
  for (const double value : types.values())
    CHECK(value == 7.25 + 8.5 + static_cast<double>((1ll << 40) + 9) + 10);
}

TEST_CASE("votes of a warp, and halves of it that go separate ways") {
  Buffer<unsigned> out(5);
  require(launch({}, votes, out.get()));
  CHECK(out.values() == std::vector<unsigned>{0x00249249u, 1, 0, 1, 0});
  Buffer<int> sums(32);
  require(launch({}, halves, sums.get()));
  for (std::size_t lane = 0; lane < 32; ++lane) CHECK(sums[lane] == (lane < 16 ? 120 : 31));
}

TEST_CASE("barriers that count") {
  Buffer<int> out(5);
  require(launch({.block = 100}, block_votes, out.get()));
  CHECK(out.values() == std::vector<int>{45, 1, 0, 1, 0});
}

TEST_CASE("atomic operations") {
  Buffer<unsigned> u(5);
  Buffer<float> f(1);
  Buffer<unsigned long long> l(1);
  Buffer<int> i(1);
  require(launch({.grid = 3, .block = 50}, atomics, u.get(), f.get(), l.get(), i.get()));
  CHECK(u.values() == std::vector<unsigned>{150, 150 % 7, 49, 9, 4});
  CHECK(f[0] == 75);
  CHECK(l[0] == 150ull << 33);
  CHECK(i[0] == -49);
}

TEST_CASE("the last block adds up what the others have left, again and again") {
  constexpr int kRows = 3, kWidth = 1001;
  Buffer<float> x(kRows * kWidth), parts(kRows * 4, 0xff), sums(kRows);
  Buffer<unsigned> tickets(kRows);
  for (int i = 0; i < kRows * kWidth; ++i)
    x[static_cast<std::size_t>(i)] = static_cast<float>(i % 5);
  for (int pass = 0; pass < 3; ++pass) {
    require(launch({.grid = dim3(4, kRows), .block = 128}, row_sums, x.get(), kWidth, parts.get(),
                   tickets.get(), sums.get()));
    const auto values = x.values();
    for (int row = 0; row < kRows; ++row)
      CHECK(sums[static_cast<std::size_t>(row)] ==
            std::accumulate(values.begin() + row * kWidth, values.begin() + (row + 1) * kWidth,
                            0.0f));
    CHECK(tickets.values() == std::vector<unsigned>(kRows));
  }
}

TEST_CASE("the blocks of a cooperative grid wait for each other") {
  constexpr unsigned kBlocks = 7;
  Buffer<int> values(kBlocks);
  for (unsigned b = 0; b < kBlocks; ++b) values[b] = static_cast<int>(100 * b);
  require(launch({.grid = kBlocks, .block = 64, .cooperative = true}, turns, values.get(), 10));
  for (unsigned b = 0; b < kBlocks; ++b)
    CHECK(values[b] == static_cast<int>(100 * ((b + 10) % kBlocks)) + 10);
}

TEST_CASE("shared memory begins as garbage in every block") {
  Buffer<float> fixed(32);
  Buffer<unsigned> dynamic(32);
  for (const bool write : {true, false}) {
    require(launch({.dynamic_bytes = 128}, read_garbage, write, fixed.get(), dynamic.get()));
    for (std::size_t i = 0; i < 32; ++i) {
      CHECK(std::isnan(fixed[i]) == !write);
      CHECK(dynamic[i] == 0xffffffffu);
    }
  }
}

TEST_CASE("a seed draws the order of blocks and threads, and draws it again") {
  const std::vector<unsigned> numbered = order_of_threads(0);
  CHECK(std::is_sorted(numbered.begin(), numbered.end()));
  std::set<std::vector<unsigned>> orders{numbered};
  for (const std::uint64_t seed : {1, 2, 3}) {
    std::vector<unsigned> drawn = order_of_threads(seed);
    CHECK(orders.insert(drawn).second);
    std::sort(drawn.begin(), drawn.end());
    CHECK(drawn == numbered);
  }
  simt::reset();
}
