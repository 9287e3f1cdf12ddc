// Devices, memory, streams and events, and what is refused.
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::EventOwner;
using simt_test::launch;
using simt_test::require;
using simt_test::Shape;
using simt_test::StreamOwner;

namespace {

__global__ void nothing() {}
__global__ void set(int* word, int value) {
  if (threadIdx.x == 0) *word = value;
}
__global__ void last_byte(std::size_t bytes) {
  if (threadIdx.x == 0) simt::dynamic_shared()[bytes - 1] = 1;
}

cudaError_t launch_shape(const dim3& grid, const dim3& block, bool cooperative = false) {
  return launch({.grid = grid, .block = block, .cooperative = cooperative}, nothing);
}

}  // namespace

TEST_CASE("shapes that no device runs") {
  CHECK(launch_shape(0, 32) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(dim3(1, 1, 0), 32) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(1, 0) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(1, 1025) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(1, dim3(1, 1, 65)) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(dim3(1, 65536), 32) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(dim3(1, 1, 65536), 32) == cudaErrorInvalidConfiguration);
  CHECK(launch_shape(1, 1024) == cudaSuccess);
  CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("cooperative grids that do not fit on the device") {
  simt::Limits limits;
  limits.sms = 2;
  limits.threads_per_sm = 256;
  simt::set_limits(limits);
  int blocks = 0;
  require(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 128, 0));
  CHECK(blocks == 2);
  CHECK(launch_shape(4, 128, true) == cudaSuccess);
  CHECK(launch_shape(5, 128, true) == cudaErrorCooperativeLaunchTooLarge);
  CHECK(launch_shape(5, 128) == cudaSuccess);
  limits.cooperative = false;
  simt::set_limits(limits);
  CHECK(launch_shape(1, 128, true) == cudaErrorNotSupported);
  simt::reset();
}

TEST_CASE("large dynamic shared memory is allowed for each kernel on each device") {
  const std::size_t large = 60 << 10;
  const Shape shape{.dynamic_bytes = large};
  CHECK(launch(shape, last_byte, large) == cudaErrorInvalidValue);
  require(cudaFuncSetAttribute(last_byte, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(large)));
  CHECK(launch(shape, last_byte, large) == cudaSuccess);
  CHECK(launch(shape, nothing) == cudaErrorInvalidValue);
  require(cudaSetDevice(1));
  CHECK(launch(shape, last_byte, large) == cudaErrorInvalidValue);
  require(cudaSetDevice(0));
  CHECK(cudaFuncSetAttribute(last_byte, cudaFuncAttributeMaxDynamicSharedMemorySize, 65 << 10) ==
        cudaErrorInvalidValue);
}

TEST_CASE("a driver that is too old, or missing") {
  int version = -1;
  for (const int driver : {CUDART_VERSION - 10, 0}) {
    simt::set_driver_version(driver);
    int count = -1;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    CHECK(cudaSetDevice(0) == cudaErrorInsufficientDriver);
    CHECK(cudaGetLastError() == cudaErrorInsufficientDriver);
    require(cudaDriverGetVersion(&version));
    CHECK(version == driver);
    require(cudaRuntimeGetVersion(&version));
    CHECK(version == CUDART_VERSION);
  }
  simt::reset();
  require(cudaSetDevice(0));
  require(cudaDriverGetVersion(&version));
  CHECK(version == CUDART_VERSION);
}

TEST_CASE("a device is current for one thread, and its streams and events are its own") {
  StreamOwner stream;
  EventOwner event;
  require(cudaSetDevice(1));
  CHECK(launch({.stream = stream}, nothing) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventRecord(event, nullptr) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  int device = -1;
  std::thread([&] { require(cudaGetDevice(&device)); }).join();
  CHECK(device == 0);
  require(cudaSetDevice(0));
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
  simt::set_device_count(0);
  CHECK(cudaGetDeviceCount(&device) == cudaErrorNoDevice);
  simt::reset();
}

TEST_CASE("handles that are none") {
  cudaStream_t stream = nullptr;
  require(cudaStreamCreate(&stream));
  require(cudaStreamDestroy(stream));
  CHECK(launch({.stream = stream}, nothing) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  cudaEvent_t event = nullptr;
  require(cudaEventCreate(&event));
  require(cudaEventDestroy(event));
  CHECK(cudaEventRecord(event, nullptr) == cudaErrorInvalidResourceHandle);
}

TEST_CASE("new device memory is garbage, and only it can be freed") {
  std::uint32_t* word = nullptr;
  require(cudaMalloc(&word, sizeof(*word)));
  CHECK(reinterpret_cast<std::uintptr_t>(word) % 256 == 0);
  CHECK(*word == 0xffffffffu);
  cudaPointerAttributes attributes{};
  require(cudaPointerGetAttributes(&attributes, reinterpret_cast<char*>(word) + 3));
  CHECK(attributes.type == cudaMemoryTypeDevice);
  require(cudaPointerGetAttributes(&attributes, &word));
  CHECK(attributes.type == cudaMemoryTypeUnregistered);
  CHECK(cudaFreeHost(word) == cudaErrorInvalidValue);
  CHECK(cudaFree(&word) == cudaErrorInvalidValue);
  require(cudaFree(word));
  CHECK(cudaFree(word) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
}

TEST_CASE("a blocked stream holds back its work, its events and who waits for them") {
  StreamOwner first, second;
  EventOwner event;
  Buffer<int> words(3);
  simt::block_stream(first);
  require(launch({.stream = first}, set, words.get(), 1));
  require(cudaEventRecord(event, first));
  require(cudaStreamWaitEvent(second, event, 0));
  require(launch({.stream = second}, set, words.get() + 1, 2));
  require(launch({}, set, words.get() + 2, 3));
  CHECK(words.values() == std::vector<int>{0, 0, 3});
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(first) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(second) == cudaErrorNotReady);

  std::thread unblocker([&] { simt::unblock_stream(first); });
  require(cudaStreamSynchronize(second));
  CHECK(words.values() == std::vector<int>{1, 2, 3});
  CHECK(cudaEventQuery(event) == cudaSuccess);
  CHECK(cudaStreamQuery(first) == cudaSuccess);
  unblocker.join();
}

TEST_CASE("an event that waits is of its last recording") {
  StreamOwner stream, waiter;
  EventOwner event;
  CHECK(cudaEventQuery(event) == cudaSuccess);
  simt::block_stream(stream);
  require(cudaEventRecord(event, stream));
  require(cudaStreamWaitEvent(waiter, event, 0));
  require(cudaEventRecord(event, nullptr));
  CHECK(cudaEventQuery(event) == cudaSuccess);
  CHECK(cudaStreamQuery(waiter) == cudaErrorNotReady);
  simt::unblock_stream(stream);
  CHECK(cudaStreamQuery(waiter) == cudaSuccess);
}

TEST_CASE("a gate holds back what comes after it, also on a stream that was destroyed") {
  Buffer<int> words(2);
  cudaStream_t stream = nullptr;
  EventOwner event;
  require(cudaStreamCreate(&stream));
  require(launch({.stream = stream}, set, words.get(), 1));
  simt::Gate gate(stream);
  require(launch({.stream = stream}, set, words.get() + 1, 1));
  require(cudaEventRecord(event, stream));
  CHECK(words.values() == std::vector<int>{1, 0});
  require(cudaStreamDestroy(stream));
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  gate.open();
  CHECK(words.values() == std::vector<int>{1, 1});
  CHECK(cudaEventQuery(event) == cudaSuccess);
}

TEST_CASE("functions of the host run in their turn") {
  StreamOwner stream;
  std::vector<int> order;
  simt::block_stream(stream);
  std::array<std::pair<std::vector<int>*, int>, 3> calls{{{&order, 0}, {&order, 1}, {&order, 2}}};
  for (auto& call : calls)
    require(cudaLaunchHostFunc(
        stream,
        [](void* data) {
          const auto& [list, number] = *static_cast<std::pair<std::vector<int>*, int>*>(data);
          list->push_back(number);
        },
        &call));
  CHECK(order.empty());
  simt::unblock_stream(stream);
  CHECK(order == std::vector<int>{0, 1, 2});
}

TEST_CASE("what was launched and called is counted, and can be made to fail") {
  const simt::Counts before = simt::counts();
  const std::int64_t queries = simt::calls("cudaStreamQuery");
  Buffer<int> word(1);
  require(launch({}, set, word.get(), 1));
  require(cudaMemsetAsync(word.get(), 0, sizeof(int), nullptr));
  require(cudaStreamQuery(nullptr));
  CHECK(simt::counts().kernels == before.kernels + 1);
  CHECK(simt::counts().memsets == before.memsets + 2);  // one is the buffer's own
  CHECK(simt::calls("cudaStreamQuery") == queries + 1);

  simt::fail_next(cudaErrorMemoryAllocation, "cudaMalloc");
  require(cudaStreamQuery(nullptr));
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 4) == cudaErrorMemoryAllocation);
  simt::fail_next(cudaErrorUnknown);
  CHECK(launch({}, set, word.get(), 7) == cudaErrorUnknown);
  CHECK(word[0] == 0);
  CHECK(std::string(cudaGetErrorName(cudaErrorUnknown)) == "cudaErrorUnknown");
  simt::reset();
}

TEST_CASE("several threads launch at the same time") {
  constexpr int kThreads = 4, kLaunches = 20;
  Buffer<int> words(kThreads);
  std::vector<std::thread> threads;
  std::array<int, kThreads> failures{};
  for (std::size_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      cudaStream_t stream = nullptr;
      failures[t] += cudaSetDevice(static_cast<int>(t % 2)) != cudaSuccess;
      failures[t] += cudaStreamCreate(&stream) != cudaSuccess;
      for (int i = 1; i <= kLaunches; ++i)
        failures[t] += launch({.block = 8, .stream = stream, .cooperative = true}, set,
                              words.get() + t, i) != cudaSuccess;
      failures[t] += cudaStreamSynchronize(stream) != cudaSuccess;
      failures[t] += cudaStreamDestroy(stream) != cudaSuccess;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == std::array<int, kThreads>{});
  CHECK(words.values() == std::vector<int>(kThreads, kLaunches));
}
