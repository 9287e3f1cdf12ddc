// Capture and replay.
#include <cuda_runtime.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "launching.hpp"

using simt_test::Buffer;
using simt_test::EventOwner;
using simt_test::launch;
using simt_test::require;
using simt_test::StreamOwner;

namespace {

__global__ void add(int* word, int value) { *word += value; }

cudaError_t end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) require(cudaGraphDestroy(graph));
  (void)cudaGetLastError();
  return error;
}

void begin_capture(cudaStream_t stream, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
  require(cudaStreamBeginCapture(stream, mode));
}

}  // namespace

TEST_CASE("what was captured runs when it is launched, with the arguments it had") {
  StreamOwner stream, other;
  Buffer<int> words(2);
  begin_capture(stream);
  require(cudaMemsetAsync(words.get(), 0, sizeof(int), stream));
  int value = 5;
  require(launch({.block = 1, .stream = stream}, add, words.get(), value));
  value = 7;
  require(
      cudaMemcpyAsync(words.get() + 1, words.get(), sizeof(int), cudaMemcpyDeviceToDevice, stream));
  cudaStreamCaptureStatus status{};
  require(cudaStreamIsCapturing(stream, &status));
  CHECK(status == cudaStreamCaptureStatusActive);
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(stream, &graph));
  CHECK(words.values() == std::vector<int>{0, 0});
  std::size_t nodes = 0;
  require(cudaGraphGetNodes(graph, nullptr, &nodes));
  CHECK(nodes == 3);

  cudaGraphExec_t executable = nullptr;
  require(cudaGraphInstantiate(&executable, graph, 0));
  require(cudaGraphDestroy(graph));
  for (int replay = 0; replay < 3; ++replay) {
    require(cudaMemset(words.get(), 0xff, 2 * sizeof(int)));
    require(cudaGraphLaunch(executable, other));
    CHECK(words.values() == std::vector<int>{5, 5});
  }
  require(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphLaunch(executable, other) == cudaErrorInvalidValue);
  (void)cudaGetLastError();
}

TEST_CASE("a capture spreads by events, and must come together again") {
  StreamOwner stream, side;
  EventOwner fork, join;
  Buffer<int> words(1);
  for (const bool joins : {true, false}) {
    begin_capture(stream);
    require(cudaEventRecord(fork, stream));
    require(cudaStreamWaitEvent(side, fork, 0));
    require(launch({.block = 1, .stream = side}, add, words.get(), 1));
    if (joins) {
      require(cudaEventRecord(join, side));
      require(cudaStreamWaitEvent(stream, join, 0));
    }
    CHECK(end_capture(stream) == (joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined));
    cudaStreamCaptureStatus status{};
    require(cudaStreamIsCapturing(side, &status));
    CHECK(status == cudaStreamCaptureStatusNone);
  }
  CHECK(words[0] == 0);
}

TEST_CASE("what cannot be captured spoils the capture") {
  StreamOwner stream, other;
  EventOwner captured, before;
  require(cudaEventRecord(before, other));
  const auto spoils = [&](cudaError_t expected, auto&& call) {
    begin_capture(stream);
    require(cudaEventRecord(captured, stream));
    CHECK(call() == expected);
    CHECK(end_capture(stream) == cudaErrorStreamCaptureInvalidated);
  };
  spoils(cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamSynchronize(stream); });
  spoils(cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamQuery(stream); });
  spoils(cudaErrorStreamCaptureUnsupported, [&] { return cudaDeviceSynchronize(); });
  spoils(cudaErrorStreamCaptureUnsupported, [&] {
    void* memory = nullptr;
    return cudaMalloc(&memory, 1);
  });
  spoils(cudaErrorStreamCaptureUnsupported, [&] { return cudaEventQuery(before); });
  spoils(cudaErrorCapturedEvent, [&] { return cudaEventQuery(captured); });
  spoils(cudaErrorStreamCaptureIsolation, [&] { return cudaStreamWaitEvent(stream, before, 0); });
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) ==
        cudaErrorStreamCaptureUnsupported);
  CHECK(end_capture(stream) == cudaErrorIllegalState);
}

TEST_CASE("another thread's query spoils a global capture, unless that thread has opted out") {
  StreamOwner stream;
  EventOwner event;
  const auto query_elsewhere = [&](cudaStreamCaptureMode mode) {
    cudaError_t error = cudaSuccess;
    std::thread([&] {
      require(cudaThreadExchangeStreamCaptureMode(&mode));
      error = cudaEventQuery(event);
    }).join();
    return error;
  };
  begin_capture(stream);
  CHECK(query_elsewhere(cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);
  CHECK(end_capture(stream) == cudaErrorStreamCaptureInvalidated);
  begin_capture(stream);
  CHECK(query_elsewhere(cudaStreamCaptureModeRelaxed) == cudaSuccess);
  CHECK(end_capture(stream) == cudaSuccess);
  begin_capture(stream, cudaStreamCaptureModeThreadLocal);
  CHECK(query_elsewhere(cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(end_capture(stream) == cudaSuccess);
}

TEST_CASE("a capture ends where it began") {
  StreamOwner stream;
  begin_capture(stream);
  cudaError_t elsewhere = cudaSuccess;
  std::thread([&] { elsewhere = end_capture(stream); }).join();
  CHECK(elsewhere == cudaErrorStreamCaptureWrongThread);
  CHECK(end_capture(stream) == cudaErrorStreamCaptureInvalidated);
}
