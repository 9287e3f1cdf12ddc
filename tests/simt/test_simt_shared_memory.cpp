// How much shared memory a launch may have: static and dynamic together.
#include <cuda_runtime.h>

#include <thread>

#include "launching.hpp"

using simt_test::launch;
using simt_test::require;
using simt_test::Shape;

namespace {

constexpr std::size_t kPerBlock = 48 << 10, kOptIn = 64 << 10, kPerSm = 100 << 10;
constexpr std::size_t kReserved = 1 << 10;

__global__ void without_any(int* out) {
  if (threadIdx.x == 0) *out = 1;
}

// Volatile, so that the compiler keeps them. Its own, of a function that is inlined, and of one
// that is called, which calls another.
template <int kFloats>
__device__ float inlined(int i) {
  __shared__ volatile float values[kFloats];
  values[i] = 1;
  return values[i];
}
__attribute__((noinline)) __device__ double innermost(int i) {
  __shared__ volatile double values[32];
  values[i] = 1;
  return values[i];
}
template <class T>
__attribute__((noinline)) __device__ T called(int i) {
  __shared__ T value;
  if (i == 0) value = static_cast<T>(innermost(i));
  __syncthreads();
  return value;
}
template <int kFloats>
__global__ void nested(float* out) {
  __shared__ bool flag;
  const int i = static_cast<int>(threadIdx.x);
  if (i == 0) flag = true;
  __syncthreads();
  const float sum = inlined<kFloats>(i % kFloats) + called<float>(i) + static_cast<float>(flag);
  if (i == 0 && blockIdx.x == 0) *out = sum;
}
constexpr std::size_t nested_bytes(std::size_t floats) {
  return (1 + sizeof(float) + 32 * sizeof(double) + floats * sizeof(float) + 15) / 16 * 16;
}

// Two variables of one name, of which a launch may need neither.
__global__ void in_branches(int branch, int* out) {
  if (branch == 1) {
    __shared__ volatile int values[100];
    values[threadIdx.x] = 1;
    out[threadIdx.x] = values[threadIdx.x];
  } else if (branch == 2) {
    __shared__ volatile int values[50];
    values[threadIdx.x] = 2;
    out[threadIdx.x] = values[threadIdx.x];
  }
}

__global__ void almost_all(float* out) {
  __shared__ volatile float values[(kPerBlock - 256) / sizeof(float)];
  values[threadIdx.x] = 1;
  if (threadIdx.x == 0) *out = values[0] + static_cast<float>(simt::dynamic_shared()[0]);
}

template <class Kernel>
cudaFuncAttributes attributes_of(Kernel* kernel) {
  cudaFuncAttributes attributes{};
  require(cudaFuncGetAttributes(&attributes, kernel));
  return attributes;
}

template <class Kernel>
cudaError_t allow(Kernel* kernel, std::size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

template <class Kernel>
int blocks_per_sm(Kernel* kernel, std::size_t dynamic_bytes) {
  int blocks = -1;
  require(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 32, dynamic_bytes));
  return blocks;
}

}  // namespace

TEST_CASE("the static shared memory of a kernel is known before it has run") {
  const std::int64_t calls = simt::calls("cudaFuncGetAttributes");
  CHECK(attributes_of(without_any).sharedSizeBytes == 0);
  CHECK(simt::calls("cudaFuncGetAttributes") == calls + 1);
  CHECK(attributes_of(nested<10>).sharedSizeBytes == nested_bytes(10));
  CHECK(attributes_of(nested<1000>).sharedSizeBytes == nested_bytes(1000));
  CHECK(attributes_of(in_branches).sharedSizeBytes == 608);
  CHECK(attributes_of(almost_all).sharedSizeBytes == kPerBlock - 256);
  CHECK(attributes_of(almost_all).maxDynamicSharedSizeBytes == 256);
  float out = 0;
  require(launch({.block = 10}, nested<10>, &out));
  CHECK(out == 3);
}

TEST_CASE("a launch that needs more than 48 KB in all must be allowed") {
  float out = 0;
  CHECK(launch({.dynamic_bytes = 256}, almost_all, &out) == cudaSuccess);
  CHECK(launch({.dynamic_bytes = 257}, almost_all, &out) == cudaErrorInvalidValue);
  CHECK(launch({.dynamic_bytes = kPerBlock - nested_bytes(32)}, nested<32>, &out) == cudaSuccess);
  CHECK(launch({.dynamic_bytes = kPerBlock - nested_bytes(32) + 1}, nested<32>, &out) ==
        cudaErrorInvalidValue);
  require(allow(nested<32>, kPerBlock));
  CHECK(launch({.dynamic_bytes = kPerBlock}, nested<32>, &out) == cudaSuccess);
}

TEST_CASE("static and allowed dynamic shared memory fit in a block's most together") {
  CHECK(allow(nested<64>, kOptIn) == cudaErrorInvalidValue);
  CHECK(allow(nested<64>, kOptIn - nested_bytes(64) + 1) == cudaErrorInvalidValue);
  CHECK(allow(nested<64>, kOptIn - nested_bytes(64)) == cudaSuccess);
  CHECK(attributes_of(nested<64>).maxDynamicSharedSizeBytes ==
        static_cast<int>(kOptIn - nested_bytes(64)));
  CHECK(allow(without_any, kOptIn) == cudaSuccess);
}

TEST_CASE("occupancy counts static, dynamic and reserved shared memory") {
  const std::size_t third = kPerSm / 3 - kReserved - nested_bytes(128);
  CHECK(blocks_per_sm(nested<128>, third) == 3);
  CHECK(blocks_per_sm(nested<128>, third + 1) == 2);
  simt::Limits limits;
  limits.sms = 1;
  simt::set_limits(limits);
  float out = 0;
  Shape shape{.grid = 3, .dynamic_bytes = third, .cooperative = true};
  CHECK(launch(shape, nested<128>, &out) == cudaSuccess);
  ++shape.dynamic_bytes;
  CHECK(launch(shape, nested<128>, &out) == cudaErrorCooperativeLaunchTooLarge);
  simt::reset();
}

TEST_CASE("what is allowed for a kernel on a device holds for all threads of the process") {
  const Shape shape{.dynamic_bytes = kPerBlock};
  float out = 0;
  require(allow(nested<256>, kPerBlock));
  std::thread([] { require(allow(nested<256>, 100)); }).join();
  CHECK(launch(shape, nested<256>, &out) == cudaErrorInvalidValue);
  std::thread([] {
    require(cudaSetDevice(1));
    require(allow(nested<256>, kPerBlock));
  }).join();
  CHECK(launch(shape, nested<256>, &out) == cudaErrorInvalidValue);
  std::thread([] { require(allow(nested<256>, kPerBlock)); }).join();
  CHECK(launch(shape, nested<256>, &out) == cudaSuccess);
}

TEST_CASE("attributes of a device") {
  simt::Limits limits;
  limits.major = 7;
  limits.minor = 5;
  simt::set_limits(limits);
  int value = 0;
  require(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK(value == 7);
  require(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMinor, 1));
  CHECK(value == 5);
  require(cudaDeviceGetAttribute(&value, cudaDevAttrReservedSharedMemoryPerBlock, 0));
  CHECK(value == kReserved);
  simt::reset();
}
