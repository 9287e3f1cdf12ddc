// Thread block clusters.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::launch;
using simt_test::require;
using simt_test::Shape;

namespace cg = cooperative_groups;

namespace {

__global__ void nothing() {}

__global__ void ranks(unsigned* first_of_cluster, unsigned* ranks, unsigned* threads) {
  const auto cluster = cg::this_cluster();
  __shared__ unsigned number;
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  if (threadIdx.x == 0) number = block;
  cluster.sync();
  if (threadIdx.x == 0) {
    first_of_cluster[block] = *cluster.map_shared_rank(&number, 0);
    ranks[block] = 100 * cluster.num_blocks() + cluster.block_rank();
  }
  threads[block * blockDim.x + threadIdx.x] = 1000 * cluster.num_threads() + cluster.thread_rank();
  cluster.sync();
}

// Every block adds up what all blocks of its cluster have, in static and in dynamic shared memory.
__global__ void sums(int rounds, int* out) {
  const auto cluster = cg::this_cluster();
  __shared__ int fixed[32];
  int* const dynamic = reinterpret_cast<int*>(simt::dynamic_shared());
  const unsigned i = threadIdx.x;
  int total = static_cast<int>(blockIdx.x);
  for (int round = 0; round < rounds; ++round) {
    fixed[i] = total;
    dynamic[i] = round;
    cluster.sync();
    total = 0;
    for (unsigned rank = 0; rank < cluster.num_blocks(); ++rank)
      total += cluster.map_shared_rank(fixed, rank)[i] +
               *cluster.map_shared_rank(dynamic + (i + 1) % 32, rank);
    cluster.sync();
  }
  out[blockIdx.x * blockDim.x + i] = total;
}

__global__ void leaves_early(int* out) {
  const auto cluster = cg::this_cluster();
  if (cluster.block_rank() == 1) return;  // who has exited is not waited for
  cluster.sync();
  if (threadIdx.x == 0) out[blockIdx.x] = 1;
}

__global__ void cluster_and_grid(int* sums) {
  const auto cluster = cg::this_cluster();
  __shared__ int value;
  if (threadIdx.x == 0) value = 1;
  cluster.sync();
  if (threadIdx.x == 0) sums[blockIdx.x] = *cluster.map_shared_rank(&value, 1);
  cg::this_grid().sync();
  int total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += sums[b];
  if (threadIdx.x == 0) value = total;
  cluster.sync();
  const int both = *cluster.map_shared_rank(&value, 0) + *cluster.map_shared_rank(&value, 1);
  cg::this_grid().sync();
  if (threadIdx.x == 0) sums[blockIdx.x] = both;
}

__global__ void dependent(const int* from, int* to) {
  const auto cluster = cg::this_cluster();
  __shared__ int value;
  if (cluster.block_rank() == 0) cudaGridDependencySynchronize();
  if (threadIdx.x == 0) value = cluster.block_rank() == 0 ? from[blockIdx.x] : 0;
  cluster.sync();
  if (threadIdx.x == 0) to[blockIdx.x] = *cluster.map_shared_rank(&value, 0) + 1;
  cluster.sync();
}

__global__ void waits() {
  const auto wait = [](int loads) {
    while (loads-- > 0) simt::await_load(simt::issue_load());
  };
  wait(cg::this_cluster().block_rank() == 1 && threadIdx.x == 3 ? 5 : 1);
  cg::this_cluster().sync();
  wait(blockIdx.x == 0 ? 2 : 0);
}

__global__ void map_of_no_block() { cg::this_cluster().map_shared_rank(simt::dynamic_shared(), 2); }
__global__ void map_of_stack() {
  int local = 0;
  cg::this_cluster().map_shared_rank(&local, 1);
  cg::this_cluster().sync();
}
__global__ void map_of_ended_block() {
  if (cg::this_cluster().block_rank() == 1) return;
  cg::this_cluster().sync();
  cg::this_cluster().map_shared_rank(simt::dynamic_shared(), 1);
}
__global__ void sync_in_some_threads() {
  if (threadIdx.x == 3) __syncthreads();
  cg::this_cluster().sync();
}
#ifndef __SANITIZE_THREAD__  // which finds the race
__global__ void read_after_exit(float* out) {
  const auto cluster = cg::this_cluster();
  __shared__ float value;
  if (threadIdx.x == 0) value = 1;
  float* const of_other = cluster.map_shared_rank(&value, 1);
  cluster.sync();
  if (cluster.block_rank() == 1) return;
  cluster.sync();
  if (threadIdx.x == 0) *out = *of_other;
}
#endif

template <class... Parameters, class... Arguments>
void check_fault(const std::string& says, const Shape& shape, void (*kernel)(Parameters...),
                 Arguments... arguments) {
  CHECK(launch(shape, kernel, arguments...) == cudaErrorLaunchFailure);
  INFO(simt::fault());
  CHECK(simt::fault().find(says) != std::string::npos);
  simt::reset();
}

}  // namespace

TEST_CASE("clusters that no device runs") {
  CHECK(launch({.grid = 6, .cluster = 4}, nothing) == cudaErrorInvalidClusterSize);
  CHECK(launch({.grid = dim3(4, 3), .cluster = dim3(2, 2)}, nothing) ==
        cudaErrorInvalidClusterSize);
  CHECK(launch({.grid = 16, .cluster = 16}, nothing) == cudaErrorInvalidClusterSize);
  require(cudaFuncSetAttribute(nothing, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  CHECK(launch({.grid = 16, .cluster = 16}, nothing) == cudaSuccess);
  CHECK(launch({.grid = 32, .cluster = 32}, nothing) == cudaErrorInvalidClusterSize);
  CHECK(launch({.grid = 8, .block = 1024, .cluster = 8}, nothing) ==
        cudaErrorInvalidClusterSize);  // three SMs hold six
  simt::Limits limits;
  limits.major = 8;
  simt::set_limits(limits);
  CHECK(launch({.grid = 4, .cluster = 2}, nothing) == cudaErrorNotSupported);
  int value = 1;
  require(cudaDeviceGetAttribute(&value, cudaDevAttrClusterLaunch, 0));
  CHECK(value == 0);
  simt::reset();
}

TEST_CASE("how many clusters are on the device at once") {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {4, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = 16;
  config.blockDim = 512;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = -1;
  require(cudaOccupancyMaxActiveClusters(&clusters, nothing, &config));
  CHECK(clusters == 3);  // four blocks on each of three SMs
  config.dynamicSmemBytes = 48 << 10;
  require(cudaOccupancyMaxActiveClusters(&clusters, nothing, &config));
  CHECK(clusters == 1);
  config.dynamicSmemBytes = 49 << 10;
  require(cudaOccupancyMaxActiveClusters(&clusters, nothing, &config));
  CHECK(clusters == 0);
}

TEST_CASE("blocks know their place in their cluster") {
  Buffer<unsigned> first(24), rank(24), threads(24 * 8);
  require(launch({.grid = dim3(4, 3, 2), .block = 8, .cluster = dim3(2, 1, 2)}, ranks, first.get(),
                 rank.get(), threads.get()));
  for (unsigned b = 0; b < 24; ++b) {
    const unsigned x = b % 4, y = b / 4 % 3, z = b / 12;
    CHECK(first[b] == x / 2 * 2 + 4 * y);
    CHECK(rank[b] == 400 + x % 2 + 2 * z);
    for (unsigned i = 0; i < 8; ++i) CHECK(threads[8 * b + i] == 32'000 + 8 * (x % 2 + 2 * z) + i);
  }
  require(
      launch({.grid = dim3(4, 3, 2), .block = 8}, ranks, first.get(), rank.get(), threads.get()));
  for (unsigned b = 0; b < 24; ++b) CHECK((first[b] == b && rank[b] == 100));
}

TEST_CASE("shared memory of the other blocks of a cluster") {
  for (const bool cooperative : {false, true}) {
    Buffer<int> out(12 * 32);
    require(launch({.grid = 12, .dynamic_bytes = 128, .cooperative = cooperative, .cluster = 4},
                   sums, 3, out.get()));
    for (int b = 0; b < 12; ++b) {
      const int sum = 4 * (b / 4 * 4) + 6;
      const int expected = 4 * (4 * sum + 4) + 8;
      CHECK(out[static_cast<std::size_t>(32 * b + 5)] == expected);
    }
  }
}

TEST_CASE("barriers of clusters, grids and dependent launches together") {
  Buffer<int> out(8), next(8);
  require(launch({.grid = 8, .cluster = 2}, leaves_early, out.get()));
  CHECK(out.values() == std::vector<int>{1, 0, 1, 0, 1, 0, 1, 0});
  require(launch({.grid = 8, .cooperative = true, .cluster = 2}, cluster_and_grid, out.get()));
  CHECK(out.values() == std::vector<int>(8, 16));
  const Shape shape{.grid = 8, .programmatic = true, .cluster = 4};
  require(launch(shape, dependent, out.get(), out.get()));
  require(launch(shape, dependent, out.get(), next.get()));
  require(cudaDeviceSynchronize());
  CHECK(next.values() == std::vector<int>(8, 18));
  simt::reset_dependent_loads();
  require(launch({.grid = 4, .cluster = 2}, waits));
  CHECK(simt::dependent_loads() == 7);
}

TEST_CASE("faults in clusters") {
  check_fault("block 2 of a cluster of 2", {.grid = 2, .cluster = 2}, map_of_no_block);
  check_fault("is not in shared memory", {.grid = 2, .cluster = 2}, map_of_stack);
  check_fault("block 1 of a cluster, which has ended", {.grid = 2, .cluster = 2},
              map_of_ended_block);
  check_fault("deadlock: ", {.grid = 2, .cluster = 2}, sync_in_some_threads);
}

#ifndef __SANITIZE_THREAD__
TEST_CASE("shared memory of a block that has ended is garbage") {
  float out = 0;
  require(launch({.grid = 2, .cluster = 2}, read_after_exit, &out));
  CHECK(out != out);
}
#endif
