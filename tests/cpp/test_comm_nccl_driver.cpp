// NCCL communicators and a CUDA driver that blocks: the functions below replace those of the
// simulated runtime in this executable.
#include <dlfcn.h>

#include <atomic>
#include <map>
#include <mutex>

#include "comm/deadline.hpp"
#include "nccl_ranks.hpp"

namespace {

std::atomic<bool> queries_block{false};
std::atomic<int> blocked_queries{0};
std::atomic<int> wrong_devices{0};  // calls for an event while another device was current

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::mutex devices_mutex;
std::map<cudaEvent_t, int> devices;  // of the events

void check_current_device(cudaEvent_t event) {
  int current = -1;
  static_cast<void>(cudaGetDevice(&current));
  const std::lock_guard lock(devices_mutex);
  if (devices.at(event) != current) ++wrong_devices;
}

}  // namespace

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  static const auto create = real<decltype(cudaEventCreateWithFlags)>("cudaEventCreateWithFlags");
  const cudaError_t error = create(event, flags);
  int current = -1;
  static_cast<void>(cudaGetDevice(&current));
  const std::lock_guard lock(devices_mutex);
  devices[*event] = current;
  return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  static const auto query = real<decltype(cudaEventQuery)>("cudaEventQuery");
  check_current_device(event);
  ++blocked_queries;
  while (queries_block) syncnorm::contract::sleep_for(0.001);
  --blocked_queries;
  return query(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  static const auto destroy = real<decltype(cudaEventDestroy)>("cudaEventDestroy");
  check_current_device(event);
  return destroy(event);
}

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

constexpr double kPatience = 10.0;  // s: for what is to happen at once

struct Buffers {
  double src = 1.0;
  double dst = 0.0;
};

void enqueue(Communicator& rank, Buffers& buffers, cudaStream_t stream = nullptr) {
  rank.sum(&buffers.src, &buffers.dst, 1, SYNCNORM_CUDA, stream);
}

std::unique_ptr<Communicator> make_one(int device, double sum_s) {
  Ranks ranks = make_nccl_group({device}, timeouts(kAmple, sum_s));
  return std::move(ranks[0]);
}

template <class Condition>
bool happens(const Condition& condition) {
  const Deadline deadline(kPatience);
  while (!condition()) {
    if (deadline.passed()) return false;
    sleep_for(0.001);
  }
  return true;
}

void block_queries() {
  queries_block = true;
  await([] { return blocked_queries > 0; });
}

TEST_CASE("a sum does not wait for a query of the watchdog that blocks in the driver") {
  const NcclTest test;
  auto rank = make_one(0, kAmple);
  Buffers buffers[2];
  simt::Gate gate(nullptr);
  enqueue(*rank, buffers[0]);
  block_queries();
  std::atomic<bool> returned{false};
  std::thread next([&] {
    enqueue(*rank, buffers[1]);
    returned = true;
  });
  CHECK(happens([&] { return returned.load(); }));
  queries_block = false;
  next.join();
  gate.open();
  rank->wait(nullptr, kAmple);
  CHECK(buffers[1].dst == 1.0);
}

TEST_CASE("the watchdog aborts a sum while its queries block in the driver") {
  const NcclTest test;
  auto rank = make_one(0, kShort);
  nccl_double_set("STALL", "AllReduce");
  Buffers buffers;
  queries_block = true;
  enqueue(*rank, buffers);
  CHECK(happens([] { return nccl_double_calls("CommAbort") == 1; }));
  queries_block = false;
  check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_TIMEOUT,
               {"sum number 1 of 1 values, enqueued ", "no progress for 0.4 s"});
}

// More sums than the history holds, while a query of the oldest one is under way.
TEST_CASE("an event that is recorded anew while it is queried") {
  const NcclTest test;
  auto rank = make_one(0, kAmple);
  Buffers buffers[100];
  simt::Gate gate(nullptr);
  enqueue(*rank, buffers[0]);
  block_queries();
  for (Buffers& each : buffers) enqueue(*rank, each);
  queries_block = false;
  gate.open();
  rank->wait(nullptr, kAmple);
  for (const Buffers& each : buffers) CHECK(each.dst == 1.0);
}

TEST_CASE("events are queried and destroyed while their device is current") {
  const NcclTest test;
  wrong_devices = 0;
  auto rank = make_one(3, kAmple);
  Buffers buffers;
  REQUIRE(cudaSetDevice(3) == cudaSuccess);
  simt::Gate gate(nullptr);
  REQUIRE(cudaSetDevice(6) == cudaSuccess);
  enqueue(*rank, buffers);
  const auto queries = simt::calls("cudaEventQuery");
  await([&] { return simt::calls("cudaEventQuery") > queries; });
  gate.open();
  const auto destroyed = simt::calls("cudaEventDestroy");
  rank.reset();
  await([&] { return simt::calls("cudaEventDestroy") > destroyed; });
  CHECK(wrong_devices == 0);
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 6);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
}

}  // namespace
