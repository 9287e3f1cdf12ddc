// NCCL communicators and streams: order, captured graphs, waiting, threads.
#include <atomic>

#include "nccl_ranks.hpp"

namespace {

using namespace syncnorm;
using namespace syncnorm::contract;

struct Buffers {
  double src = 1.0;
  double dst = 0.0;
};

void enqueue(Communicator& rank, Buffers& buffers, cudaStream_t stream = nullptr) {
  rank.sum(&buffers.src, &buffers.dst, 1, SYNCNORM_CUDA, stream);
}

std::unique_ptr<Communicator> make_one(double sum_s = kAmple) {
  Ranks ranks = make_nccl_group({0}, timeouts(kAmple, sum_s));
  return std::move(ranks[0]);
}

TEST_CASE("a sum takes its place in the order of the stream") {
  const NcclTest test;
  auto rank = make_one();
  const TestStream stream;
  Buffers buffers;
  simt::Gate gate(stream);
  const auto write = [](void* value) { *static_cast<double*>(value) = 7.0; };
  REQUIRE(cudaLaunchHostFunc(stream, write, &buffers.src) == cudaSuccess);
  enqueue(*rank, buffers, stream);
  CHECK(buffers.dst == 0.0);  // sum has returned, and the device has not come so far
  gate.open();
  rank->wait(stream, kAmple);
  CHECK(buffers.dst == 7.0);
}

TEST_CASE("sums on several streams run in the order of the calls") {
  const NcclTest test;
  auto rank = make_one();
  const TestStream first;
  const TestStream second;
  Buffers buffers[3];
  simt::Gate gate(first);
  enqueue(*rank, buffers[0], first);
  enqueue(*rank, buffers[1], second);
  enqueue(*rank, buffers[2]);
  CHECK(cudaStreamQuery(second) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(nullptr) == cudaErrorNotReady);
  CHECK(cudaGetLastError() == cudaErrorNotReady);
  for (const Buffers& each : buffers) CHECK(each.dst == 0.0);
  gate.open();
  rank->wait(nullptr, kAmple);
  for (const Buffers& each : buffers) CHECK(each.dst == 1.0);
}

TEST_CASE("a stream may be gone before the next sum") {
  const NcclTest test;
  auto rank = make_one();
  Buffers buffers;
  {
    const TestStream stream;
    enqueue(*rank, buffers, stream);
  }
  enqueue(*rank, buffers);
  rank->wait(nullptr, kAmple);
  CHECK(buffers.dst == 1.0);
}

TEST_CASE("the caller's device stays current") {
  const NcclTest test;
  Ranks ranks = make_nccl_group({1, 2}, timeouts(kAmple, kAmple));
  REQUIRE(cudaSetDevice(5) == cudaSuccess);
  Buffers buffers[2];
  enqueue(*ranks[0], buffers[0]);
  enqueue(*ranks[1], buffers[1]);
  for (auto& rank : ranks) rank->wait(nullptr, kAmple);
  ranks.clear();
  int current = -1;
  CHECK(cudaGetDevice(&current) == cudaSuccess);
  CHECK(current == 5);
  CHECK(buffers[0].dst == 2.0);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
}

TEST_CASE("wait knows only what was enqueued before it") {
  const NcclTest test;
  auto rank = make_one();
  const TestStream stream;
  Buffers buffers;
  simt::Gate before(stream);
  enqueue(*rank, buffers, stream);
  std::atomic<bool> waited{false};
  const auto calls = simt::calls("cudaEventQuery");
  std::thread waiting([&] {
    rank->wait(stream, kAmple);
    waited = true;
  });
  await([&] { return simt::calls("cudaEventQuery") > calls + 1; });
  CHECK(!waited);
  simt::Gate after(stream);
  before.open();
  waiting.join();
  CHECK(buffers.dst == 1.0);
  after.open();
}

TEST_CASE("wait has a deadline, and fails the communicator") {
  const NcclTest test;
  auto rank = make_one();
  const TestStream stream;
  Buffers buffers;
  std::string reason;
  SUBCASE("a sum is not done") {
    nccl_double_set("STALL", "AllReduce");
    enqueue(*rank, buffers, stream);
    reason = "sum number 1 of 1 values, enqueued ";
  }
  SUBCASE("all sums are done, other work is not") {
    enqueue(*rank, buffers, stream);
    reason = "its sums are done";
  }
  simt::Gate gate(stream);
  check_failed(outcome_of([&] { rank->wait(stream, kShort); }), SYNCNORM_TIMEOUT,
               {"rank 0 of 1", "waited 0.4 s", reason});
  CHECK(cudaGetLastError() == cudaSuccess);  // "not ready" was no error
  check_failed(outcome_of([&] { rank->poll(); }), SYNCNORM_TIMEOUT, {reason});
  CHECK(nccl_double_calls("CommAbort") == 1);
  gate.open();
}

class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  }
  cudaGraphExec_t end() {
    CHECK(cudaStreamEndCapture(stream_, &graph_) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&executable_, graph_, 0) == cudaSuccess);
    return executable_;
  }
  ~Capture() {
    CHECK(cudaGraphExecDestroy(executable_) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph_) == cudaSuccess);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

TEST_CASE("a sum can be captured in a graph, and be replayed") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(2, kAmple);
  check_all_ok(on_every_rank(ranks, [](Communicator& rank) { sum(rank, {1.0}); }));
  std::vector<double> seen(2);
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    static_cast<void>(cudaSetDevice(rank.rank()));
    cudaStream_t stream = nullptr;
    static_cast<void>(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    Buffers buffers[2];
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    static_cast<void>(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue(rank, buffers[0], stream);
    enqueue(rank, buffers[1], stream);
    static_cast<void>(cudaStreamEndCapture(stream, &graph));
    static_cast<void>(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 1; replay <= 20; ++replay) {
      buffers[1].src = replay + rank.rank();
      static_cast<void>(cudaGraphLaunch(executable, stream));
      rank.wait(stream, kAmple);
      seen[static_cast<std::size_t>(rank.rank())] += buffers[1].dst;
    }
    static_cast<void>(cudaGraphExecDestroy(executable));
    static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaStreamDestroy(stream));
  }));
  CHECK(seen == std::vector<double>(2, 440.0));
  CHECK(roll_call(ranks) == std::vector<double>{11, 11});
}

// CUDA ends a capture where another thread so much as queries an event.
TEST_CASE("the watchdog and poll leave captures alone") {
  const NcclTest test;
  auto rank = make_one(0.05);
  const TestStream busy;
  const TestStream stream;
  Buffers buffers[2];
  simt::Gate gate(busy);
  enqueue(*rank, buffers[0], busy);
  Capture capture(stream);
  enqueue(*rank, buffers[1], stream);
  const auto queries = simt::calls("cudaEventQuery");
  await([&] { return simt::calls("cudaEventQuery") > queries + 2; });
  CHECK(!outcome_of([&] { rank->poll(); }));
  gate.open();
  CHECK(cudaGraphLaunch(capture.end(), stream) == cudaSuccess);
  rank->wait(stream, kAmple);
  CHECK(buffers[1].dst == 1.0);
}

TEST_CASE("a sum that is only captured is not watched") {
  const NcclTest test;
  auto rank = make_one(0.05);
  const TestStream stream;
  Buffers buffers;
  Capture capture(stream);
  enqueue(*rank, buffers, stream);
  check_failed(outcome_of([&] { rank->wait(stream, 1.0); }), SYNCNORM_INVALID_ARGUMENT,
               {"is being captured"});
  const cudaGraphExec_t graph = capture.end();
  const auto polls = nccl_double_calls("CommGetAsyncError");
  await([&] { return nccl_double_calls("CommGetAsyncError") > polls + 30; });
  CHECK(!outcome_of([&] { rank->poll(); }));
  CHECK(cudaGraphLaunch(graph, stream) == cudaSuccess);
  rank->wait(stream, kAmple);
}

// Whoever comes second is refused, and the call under way is not harmed.
TEST_CASE("a handle serves one call at a time") {
  const NcclTest test;
  auto rank = make_one();
  const long before = nccl_double_calls("AllReduce");
  nccl_double_set("HANG", "AllReduce");
  Buffers buffers;
  Outcome first;
  std::thread inside([&] { first = outcome_of([&] { enqueue(*rank, buffers); }); });
  await([&] { return nccl_double_calls("AllReduce") == before + 1; });
  Buffers other;
  const std::vector<std::string> words{"rank 0", "one call at a time"};
  check_failed(outcome_of([&] { enqueue(*rank, other); }), SYNCNORM_INVALID_ARGUMENT, words);
  check_failed(outcome_of([&] { rank->split(0, 0); }), SYNCNORM_INVALID_ARGUMENT, words);
  check_failed(outcome_of([&] { rank->wait(nullptr, 1.0); }), SYNCNORM_INVALID_ARGUMENT, words);
  CHECK(!outcome_of([&] { rank->poll(); }));  // may come at any time, and does not wait
  nccl_double_set("HANG", "");
  inside.join();
  CHECK(!first);
  rank->wait(nullptr, kAmple);
  CHECK(buffers.dst == 1.0);
}

TEST_CASE("ranks in threads, sums on changing streams, the watchdog in between") {
  const NcclTest test;
  Ranks ranks = make_nccl_ranks(3, kAmple);
  std::atomic<int> wrong{0};
  check_all_ok(on_every_rank(ranks, [&](Communicator& rank) {
    static_cast<void>(cudaSetDevice(rank.rank()));
    cudaStream_t streams[3] = {};
    for (cudaStream_t& stream : streams)
      static_cast<void>(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    constexpr std::size_t kSums = 200;
    std::vector<Buffers> buffers(kSums);
    for (std::size_t i = 0; i < kSums; ++i) {
      buffers[i].src = static_cast<double>(i) + rank.rank();
      enqueue(rank, buffers[i], streams[i % 3]);
      if (i % 50 == 49) rank.wait(streams[i % 3], kAmple);
    }
    for (std::size_t i = 0; i < kSums; ++i)
      if (buffers[i].dst != 3.0 * static_cast<double>(i) + 3.0) ++wrong;
    for (cudaStream_t stream : streams) static_cast<void>(cudaStreamDestroy(stream));
  }));
  CHECK(wrong == 0);
}

}  // namespace
