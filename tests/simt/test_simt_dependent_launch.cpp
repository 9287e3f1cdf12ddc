// Programmatic dependent launch.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::EventOwner;
using simt_test::launch;
using simt_test::require;
using simt_test::Shape;
using simt_test::StreamOwner;

namespace {

// More than start early.
#ifdef __SANITIZE_THREAD__
constexpr unsigned kBlocks = 12;
#else
constexpr unsigned kBlocks = 50;
#endif

__device__ unsigned thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

__global__ void add_one(const int* from, int* to) {
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
  to[thread_of_grid()] = from[thread_of_grid()] + 1;
}
__global__ void never_synchronizes(const int* from, int* to) {
  to[thread_of_grid()] = from[thread_of_grid()] + 1;
}
#ifndef __SANITIZE_THREAD__  // which finds the races of these
__global__ void read_early(const int* from, int* early, int* late) {
  early[thread_of_grid()] = from[thread_of_grid()];
  cudaGridDependencySynchronize();
  late[thread_of_grid()] = from[thread_of_grid()];
}
#endif
__global__ void one_thread_synchronizes(const int* from, int* to) {
  __shared__ int first;
  if (threadIdx.x == 5) {
    cudaGridDependencySynchronize();
    first = from[blockIdx.x * blockDim.x];
  }
  __syncthreads();
  to[thread_of_grid()] = first + from[thread_of_grid()];
}
__global__ void sum_of_grid(const int* from, int* partials, int* to) {
  cudaGridDependencySynchronize();
  if (threadIdx.x == 0) partials[blockIdx.x] = from[blockIdx.x * blockDim.x];
  cooperative_groups::this_grid().sync();
  int total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += partials[b];
  to[thread_of_grid()] = total;
}
__global__ void deadlock(const int* from, int* to) {
  cudaGridDependencySynchronize();
  to[thread_of_grid()] = from[thread_of_grid()];
  if (threadIdx.x == 0) __syncwarp(3);
  __syncthreads();
}

struct Seed {
  explicit Seed(std::uint64_t seed) { simt::set_seed(seed); }
  ~Seed() { simt::reset(); }
};

std::vector<int> filled(int value) { return std::vector<int>(32 * kBlocks, value); }

const Shape kDependent{.grid = kBlocks, .programmatic = true};

}  // namespace

TEST_CASE("devices before compute capability 9.0 have no programmatic dependent launch") {
  Buffer<int> x(32 * kBlocks);
  simt::Limits limits;
  limits.major = 8;
  simt::set_limits(limits);
  CHECK(launch(kDependent, add_one, x.get(), x.get()) == cudaErrorNotSupported);
  CHECK(launch({.grid = kBlocks}, add_one, x.get(), x.get()) == cudaSuccess);
  CHECK(x.values() == filled(1));
  simt::reset();
}

TEST_CASE("without a seed a kernel has ended when its launch returns") {
  const Seed seed(0);
  Buffer<int> x(32 * kBlocks);
  for (int i = 1; i <= 3; ++i) {
    require(launch(kDependent, add_one, x.get(), x.get()));
    CHECK(x.values() == filled(i));
  }
}

TEST_CASE("the result of a chain of dependent kernels") {
  StreamOwner stream;
  Shape shape = kDependent;
  shape.stream = stream;
  for (const std::uint64_t number : {0, 1, 2, 3}) {
    const Seed seed(number);
    Buffer<int> x(32 * kBlocks), y(32 * kBlocks), z(32 * kBlocks), partials(kBlocks);
    require(launch(shape, add_one, x.get(), y.get()));
    require(launch(shape, add_one, y.get(), z.get()));
    require(launch(shape, one_thread_synchronizes, z.get(), x.get()));
    Shape cooperative = shape;
    cooperative.cooperative = true;
    require(launch(cooperative, sum_of_grid, x.get(), partials.get(), y.get()));
    require(launch(cooperative, sum_of_grid, y.get(), partials.get(), z.get()));
    require(launch(shape, add_one, z.get(), z.get()));
    require(cudaStreamSynchronize(stream));
    CHECK(x.values() == filled(4));
    CHECK(y.values() == filled(4 * kBlocks));
    CHECK(z.values() == filled(4 * kBlocks * kBlocks + 1));
  }
}

#ifndef __SANITIZE_THREAD__
TEST_CASE("what is read before the synchronization is what was there before") {
  const Seed seed(1);
  Buffer<int> x(32 * kBlocks), y(32 * kBlocks), early(32 * kBlocks), late(32 * kBlocks);
  require(launch(kDependent, add_one, x.get(), y.get()));
  require(launch(kDependent, read_early, y.get(), early.get(), late.get()));
  require(cudaDeviceSynchronize());
  CHECK(late.values() == filled(1));
  const std::vector<int> values = early.values();
  CHECK(std::count(values.begin(), values.end(), 0) == 32 * 32);  // the blocks of one SM
  CHECK(std::count(values.begin(), values.end(), 1) == 32 * (kBlocks - 32));
}
#endif

TEST_CASE("only the kernel directly before may be overlapped") {
  const Seed seed(1);
  Buffer<int> x(32 * kBlocks), y(32 * kBlocks);
  require(launch(kDependent, add_one, x.get(), x.get()));
  require(cudaMemsetAsync(y.get(), 0, sizeof(int), nullptr));
  require(launch(kDependent, never_synchronizes, x.get(), y.get()));
  require(launch({.grid = kBlocks}, never_synchronizes, y.get(), x.get()));
  CHECK(x.values() == filled(3));
}

TEST_CASE("whoever waits for a stream waits for its last kernel") {
  const Seed seed(1);
  StreamOwner stream, other;
  EventOwner event;
  Buffer<int> x(32 * kBlocks), y(32 * kBlocks);
  Shape shape = kDependent;
  shape.stream = stream;
  int expected = 0;
  const auto add_twice = [&] {
    for (int i = 0; i < 2; ++i) require(launch(shape, add_one, x.get(), x.get()));
    expected += 2;
  };
  add_twice();
  require(cudaStreamQuery(stream));
  CHECK(x.values() == filled(expected));
  add_twice();
  require(cudaDeviceSynchronize());
  CHECK(x.values() == filled(expected));
  add_twice();
  require(cudaEventRecord(event, stream));
  require(cudaEventSynchronize(event));
  CHECK(x.values() == filled(expected));
  add_twice();
  require(cudaEventRecord(event, stream));
  require(cudaStreamWaitEvent(other, event, 0));
  require(launch({.grid = kBlocks, .stream = other}, add_one, x.get(), y.get()));
  require(cudaStreamSynchronize(other));
  CHECK(y.values() == filled(expected + 1));
  add_twice();
  int* freed = nullptr;
  require(cudaMalloc(&freed, sizeof(int)));
  require(cudaFree(freed));
  CHECK(x.values() == filled(expected));
  add_twice();
  simt::Gate gate(stream);
  CHECK(x.values() == filled(expected));
  add_twice();
  CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
  CHECK(x.values() == filled(expected - 2));
  gate.open();
  require(cudaStreamSynchronize(stream));
  CHECK(x.values() == filled(expected));
  cudaStream_t destroyed = nullptr;
  require(cudaStreamCreate(&destroyed));
  shape.stream = destroyed;
  add_twice();
  require(cudaStreamDestroy(destroyed));
  CHECK(x.values() == filled(expected));
}

TEST_CASE("kernels of a graph do not overlap") {
  const Seed seed(1);
  StreamOwner stream;
  Shape shape = kDependent;
  shape.stream = stream;
  Buffer<int> x(32 * kBlocks);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  require(launch(shape, add_one, x.get(), x.get()));
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  require(launch(shape, add_one, x.get(), x.get()));
  require(launch(shape, add_one, x.get(), x.get()));
  require(cudaStreamEndCapture(stream, &graph));
  require(cudaGraphInstantiate(&executable, graph, 0));
  require(cudaGraphLaunch(executable, stream));
  require(launch(shape, add_one, x.get(), x.get()));
  require(cudaGraphLaunch(executable, stream));
  CHECK(x.values() == filled(6));
  require(cudaGraphExecDestroy(executable));
  require(cudaGraphDestroy(graph));
}

TEST_CASE("faults of kernels that started early") {
  const Seed seed(1);
  Buffer<int> x(32 * kBlocks);
  require(launch(kDependent, add_one, x.get(), x.get()));
  require(launch(kDependent, deadlock, x.get(), x.get()));
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(simt::fault().find("deadlock: ") != std::string::npos);
}
