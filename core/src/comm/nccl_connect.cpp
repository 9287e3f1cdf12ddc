#include "comm/nccl_connect.hpp"

#include <cstddef>
#include <mutex>
#include <optional>
#include <utility>

#include "comm/interrupt.hpp"
#include "comm/nccl_cuda.hpp"
#include "comm/side_call.hpp"
#include "support/cuda_runtime.hpp"
#include "support/error.hpp"

namespace syncnorm::nccl {
namespace {

using Ranks = std::vector<std::shared_ptr<Connection>>;

constexpr const char* kName = "ncclAllReduce";

// NCCL connects what it uses for a vector of the given length. This one is in the middle of the
// lengths of wires.
constexpr std::size_t kLength = 1024;

// A stream and a vector of the device that is current. After a failure they are left to the
// process: to free them could wait forever for an all-reduce that is never done.
struct Scratch {
  cudaStream_t stream = nullptr;
  double* values = nullptr;

  void create() {
    constexpr std::size_t kBytes = kLength * sizeof(double);
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
               "cudaStreamCreateWithFlags");
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, kBytes), "cudaMalloc");
    values = static_cast<double*>(memory);
    check_cuda(cudaMemsetAsync(values, 0, kBytes, stream), "cudaMemsetAsync");
  }

  bool done() const {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());  // it is remembered as if it were an error
      return false;
    }
    check_cuda(status, "cudaStreamQuery");
    return true;
  }

  void release() {
    check_cuda(cudaFree(values), "cudaFree");
    check_cuda(cudaStreamDestroy(stream), "cudaStreamDestroy");
  }
};

// All in one group call: one thread may drive several ranks, and each waits for the others.
Result enqueue(const Ranks& ranks, const std::vector<Scratch>& scratch) {
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& rank : ranks) locks.push_back(rank->lock_calls());
  const Api& api = ranks[0]->api();
  Result first = api.group_start();
  if (first != kSuccess) return first;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    double* const values = scratch[i].values;
    const Result result = cudaSetDevice(ranks[i]->place().device) == cudaSuccess
                              ? api.all_reduce(values, values, kLength, kFloat64, kSum,
                                               ranks[i]->comm(), scratch[i].stream)
                              : kUnhandledCudaError;
    if (first == kSuccess && result != kInProgress) first = result;
  }
  const Result end = api.group_end();
  return first == kSuccess ? end : first;
}

// For a thread of its own, since NCCL and the driver may not return: it owns what it uses.
int prepare_and_enqueue(const Ranks& ranks, std::vector<Scratch>& scratch) {
  const OutsideCaptures outside;
  // All memory before the first all-reduce, which an allocation could wait for.
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    check_cuda(cudaSetDevice(ranks[i]->place().device), "cudaSetDevice");
    scratch[i].create();
  }
  return static_cast<int>(enqueue(ranks, scratch));
}

void finish(Connection& rank, Scratch& scratch, const Deadline& deadline) {
  const OutsideCaptures outside;
  const DeviceGuard guard(rank.place().device);
  InterruptCheck interrupt;
  for (Backoff backoff; !scratch.done(); backoff.pause()) {
    rank.poll();
    if (deadline.passed()) rank.time_out(kName, deadline);
    if (interrupt.interrupted()) rank.fail_interrupted(kName);
  }
  rank.poll();
  scratch.release();
}

void all_reduce(const Ranks& ranks, const Deadline& deadline) {
  const auto scratch = std::make_shared<std::vector<Scratch>>(ranks.size());
  const std::optional<int> result = result_within(
      deadline.left(), [ranks, scratch] { return prepare_and_enqueue(ranks, *scratch); });
  Connection& first = *ranks[0];
  if (!result && deadline.passed()) first.time_out(kName, deadline);
  if (!result) first.fail_interrupted(kName);
  first.settle(kName, deadline, static_cast<Result>(*result));
  for (const auto& rank : ranks) rank->settle(kName, deadline, kInProgress);
  for (std::size_t i = 0; i < ranks.size(); ++i) finish(*ranks[i], (*scratch)[i], deadline);
}

}  // namespace

void connect(const Ranks& ranks, const Deadline& deadline) {
  try {
    all_reduce(ranks, deadline);
  } catch (const Error& error) {
    for (const auto& rank : ranks) rank->fail(error.status(), error.what());
    throw;
  }
}

}  // namespace syncnorm::nccl
