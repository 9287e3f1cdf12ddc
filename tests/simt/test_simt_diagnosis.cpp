// What CUDA leaves undefined is refused, and said in words.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <string>

#include "launching.hpp"

using simt_test::launch;
using simt_test::Shape;

namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void barrier_in_both_branches() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_in_one_branch() {
  if (threadIdx.x >= 32) __syncthreads();
  __syncwarp(kAll);
  __syncthreads();
}
__global__ void shuffle_in_one_branch() {
  if (threadIdx.x < 16) __shfl_sync(kAll, 1, 0);
  __syncthreads();
}
__global__ void different_shuffles() {
  if (threadIdx.x < 16)
    __shfl_sync(kAll, 1, 0);
  else
    __shfl_xor_sync(kAll, 1, 1);
}
__global__ void different_masks() {
  __shfl_sync(threadIdx.x < 16 ? kAll : 0xffff0000u, 1, 16);
  __syncthreads();
}
__global__ void mask_without_itself() { __syncwarp(1); }
__global__ void misaligned(const unsigned char* bytes) {
  __ldg(reinterpret_cast<const uint4*>(bytes + 4));
}
__global__ void grid_sync() { cooperative_groups::this_grid().sync(); }
__global__ void grid_sync_in_some_blocks() {
  if (blockIdx.x != 2) cooperative_groups::this_grid().sync();
}
__global__ void grid_sync_in_some_threads() {
  if (threadIdx.x != 2)
    cooperative_groups::this_grid().sync();
  else
    __syncthreads();
}
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // where stacks are larger
__attribute__((noinline)) __device__ int deep(int depth, const volatile char* outer) {
  volatile char frame[1000];
  for (volatile char& c : frame) c = *outer;
  return depth == 0 ? frame[0] : deep(depth - 1, frame) + frame[1];
}
__global__ void deep_recursion(int depth, int* out) {
  const volatile char zero = 0;
  *out = deep(depth, &zero);
}
#endif
__global__ void nothing() {}

// Launches, checks that it fails and that it says so.
template <class... Parameters, class... Arguments>
void check_fault(const std::string& says, const Shape& shape, void (*kernel)(Parameters...),
                 Arguments... arguments) {
  CHECK(launch(shape, kernel, arguments...) == cudaErrorLaunchFailure);
  const std::string fault = simt::fault();
  INFO(fault);
  CHECK(fault.find(says) != std::string::npos);
  CHECK(std::string(cudaGetErrorString(cudaErrorLaunchFailure)).find(says) != std::string::npos);
  simt::reset();
}

}  // namespace

TEST_CASE("barriers in divergent code") {
  check_fault("threads of the block wait at different barriers", {}, barrier_in_both_branches);
  check_fault("threads of the block wait at different barriers", {.block = 64},
              barrier_in_one_branch);
}

TEST_CASE("warps in divergent code") {
  check_fault("deadlock: threads 0-15 in __shfl_sync at test_simt_diagnosis.cpp:", {},
              shuffle_in_one_branch);
  check_fault("lanes of one warp wait for each other in different places", {}, different_shuffles);
  check_fault("with mask 0xffffffff", {}, different_masks);
  check_fault("with mask 0x1, which leaves it out", {}, mask_without_itself);
}

TEST_CASE("accesses that are not aligned") {
  alignas(16) const unsigned char bytes[32] = {};
  check_fault("not aligned to 16 bytes", {}, misaligned, bytes);
}

TEST_CASE("grids whose blocks do not all come") {
  check_fault("not cooperative", {}, grid_sync);
  check_fault("1 of 4 blocks have ended", {.grid = 4, .cooperative = true},
              grid_sync_in_some_blocks);
  check_fault("sync() of the grid", {.grid = 2, .cooperative = true}, grid_sync_in_some_threads);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a stack that is used up") {
  int out = 0;
  check_fault("used up its stack of 65536 bytes", {.block = 2}, deep_recursion, 70, &out);
}
#endif

TEST_CASE("after a fault every call fails, until reset") {
  CHECK(launch({}, mask_without_itself) == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(launch({}, nothing) == cudaErrorLaunchFailure);
  simt::reset();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(launch({}, nothing) == cudaSuccess);
}
