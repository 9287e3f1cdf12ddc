// A trainer on CUDA devices, with a stream, an allocator and an NCCL communicator of its own, that
// lets syncnorm normalize over all of its ranks: one step at once, then two as a CUDA graph. One
// process, with a thread for each device: 04_cuda_nccl [ranks], by default as many as there are.
//
// With a process for each device all is the same, but that the id must be carried to the others.
#include <cfloat>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <thread>
#include <vector>

#include "device.hpp"
#include "layer.hpp"
#include "reference.hpp"
#include "syncnorm/syncnorm.hpp"

namespace {

constexpr std::size_t kChannels = 20, kPositions = 49;
constexpr std::size_t kMemory = 16 << 20;  // of each rank
constexpr int kReplays = 2;
constexpr auto kPatience = std::chrono::seconds(60);

// Unequal, as at the end of an epoch.
std::size_t samples(int rank) { return rank % 2 == 0 ? 8 : 5; }
std::size_t first_sample(int rank) {
  std::size_t first = 0;
  for (int before = 0; before < rank; ++before) first += samples(before);
  return first;
}
std::vector<float> part(const std::vector<float>& whole, int rank) {
  const std::size_t sample = kChannels * kPositions;
  const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(first_sample(rank) * sample);
  return {begin, begin + static_cast<std::ptrdiff_t>(samples(rank) * sample)};
}

Batch make_batch(int ranks) {
  Batch batch{first_sample(ranks), kChannels, kPositions, {}, {}, {}, {}};
  for (std::size_t i = 0; i < batch.n * kChannels * kPositions; ++i) {
    const auto t = static_cast<float>(i);
    batch.x.push_back(std::sin(7 * t) + 3);
    batch.dy.push_back(std::cos(3 * t) / 8);
  }
  for (std::size_t c = 0; c < kChannels; ++c) {
    batch.weight.push_back(1 + static_cast<float>(c) / 16);
    batch.bias.push_back(static_cast<float>(c % 3) - 1);
  }
  return batch;
}

// What the host reads back of a rank.
struct Results {
  std::vector<float> y, dx, gradients, running;
  std::vector<std::int32_t> status;
};

class Trainer {
 public:
  // [doc: borrow-nccl]
  Trainer(const ncclUniqueId& id, int rank, int size)
      : rank_(rank),
        stream_(make_stream()),
        arena_(kMemory),
        nccl_(make_nccl(id, rank, size)),
        comm_(syncnorm::Communicator::borrow_nccl(nccl_.get())),
        layer_(shape(), /*device=*/rank, stream_.get(), arena_) {}
  // [end]

  // The first step connects the ranks. What is wrong shows there, rather than in a graph.
  Results train(const Batch& batch) {
    load(batch);
    step();
    comm_.wait(stream_.get(), kPatience);
    const Graph graph = capture_step();
    for (int i = 0; i < kReplays; ++i) require_ok(cudaGraphLaunch(graph.get(), stream_.get()));
    return read_results();
  }

 private:
  syncnorm::Shape shape() const {
    return {static_cast<std::int64_t>(samples(rank_)), kChannels, kPositions};
  }
  std::size_t values() const { return samples(rank_) * kChannels * kPositions; }

  void load(const Batch& batch) {
    upload(part(batch.x, rank_), x_, stream_.get());
    upload(part(batch.dy, rank_), dy_, stream_.get());
    upload(batch.weight, layer_.weight, stream_.get());
    upload(batch.bias, layer_.bias, stream_.get());
    std::vector<float> running(2 * kChannels, 0.0F);
    std::fill(running.begin() + kChannels, running.end(), 1.0F);
    upload(running, layer_.running, stream_.get());
    upload(std::vector<std::int32_t>{SYNCNORM_OK}, layer_.status, stream_.get());
  }

  // [doc: step]
  // The sums of the layer and the trainer's own go through one ncclComm_t, on one stream.
  void step() {
    layer_.forward(x_, y_, comm_);
    layer_.backward(x_, dy_, dx_, comm_);
    require_ok(ncclAllReduce(layer_.gradients, layer_.gradients, 2 * kChannels, ncclFloat32,
                             ncclSum, nccl_.get(), stream_.get()));
  }
  // [end]

  // [doc: capture]
  // The other threads go on to use their devices meanwhile.
  Graph capture_step() {
    require_ok(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    step();
    cudaGraph_t captured = nullptr;
    require_ok(cudaStreamEndCapture(stream_.get(), &captured));
    const CapturedGraph graph(captured);
    cudaGraphExec_t executable = nullptr;
    require_ok(cudaGraphInstantiate(&executable, graph.get(), 0));
    return Graph(executable);
  }
  // [end]

  // [doc: read-results]
  // The wait has a deadline; copies into pageable memory would wait without one.
  Results read_results() {
    comm_.wait(stream_.get(), kPatience);
    Results results{std::vector<float>(values()), std::vector<float>(values()),
                    std::vector<float>(2 * kChannels), std::vector<float>(2 * kChannels),
                    std::vector<std::int32_t>(1)};
    download(y_, results.y, stream_.get());
    download(dx_, results.dx, stream_.get());
    download(layer_.gradients, results.gradients, stream_.get());
    download(layer_.running, results.running, stream_.get());
    download(layer_.status, results.status, stream_.get());
    if (results.status[0] != SYNCNORM_OK)
      throw syncnorm::Desync("the ranks were in different layers");
    return results;
  }
  // [end]

  // In the order in which they come to be; they end in the opposite one.
  int rank_;
  Stream stream_;
  Arena arena_;
  NcclComm nccl_;
  syncnorm::Communicator comm_;
  BatchNorm layer_;
  float* x_ = arena_.take<float>(values());
  float* y_ = arena_.take<float>(values());
  float* dy_ = arena_.take<float>(values());
  float* dx_ = arena_.take<float>(values());
};

// [doc: rank-fails]
// In the thread of a rank. Where one fails the others would wait for it inside NCCL, so the process
// ends; the trainer is not taken apart, for what it has enqueued may never be done.
void run_rank(const ncclUniqueId& id, int rank, const Batch& batch, std::vector<Results>& results) {
  std::optional<Trainer> trainer;
  try {
    require_ok(cudaSetDevice(rank));
    trainer.emplace(id, rank, static_cast<int>(results.size()));
    results[static_cast<std::size_t>(rank)] = trainer->train(batch);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    std::_Exit(EXIT_FAILURE);
  }
}
// [end]

std::vector<Results> train_together(int ranks, const Batch& batch) {
  ncclUniqueId id;
  require_ok(ncclGetUniqueId(&id));
  std::vector<Results> results(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] { run_rank(id, rank, batch, results); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

// Prints the largest difference of all ranks. `magnitude`: of the terms that were added.
bool agrees(const char* name, const std::vector<Results>& results,
            std::vector<float> Results::* values, const std::vector<double>& expected, bool divided,
            double magnitude) {
  double largest = 0;
  const double* from = expected.data();
  for (const Results& rank : results) {
    const double apart = difference(rank.*values, from);
    if (!(apart <= largest)) largest = apart;
    if (divided) from += (rank.*values).size();
  }
  const double allowed = 8 * FLT_EPSILON * magnitude;
  std::printf("  %-20s %.1e of %.1e allowed\n", name, largest, allowed);
  return largest <= allowed;
}

bool compare(const Batch& batch, const std::vector<Results>& results) {
  const Expected expected = compute_expected(batch, 1 + kReplays);
  const double y = 2 + largest_of(expected.y);  // biases are up to 1
  const double dx = largest_of(expected.dx);
  const double gradients = static_cast<double>(batch.n * kPositions) / 8;  // dy is up to 1/8
  const double running = largest_of(expected.running);
  bool right = agrees("y", results, &Results::y, expected.y, true, y);
  right &= agrees("dx", results, &Results::dx, expected.dx, true, dx);
  right &= agrees("summed gradients", results, &Results::gradients, expected.gradients, false,
                  gradients);
  right &=
      agrees("running statistics", results, &Results::running, expected.running, false, running);
  return right;
}

int devices() {
  int count = 0;
  require_ok(cudaGetDeviceCount(&count));
  return count;
}

}  // namespace

int main(int argc, char** argv) try {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : devices();
  if (ranks < 1 || ranks > devices()) {
    std::fprintf(stderr, "%d ranks asked for, expected 1 to %d: one device each\n", ranks,
                 devices());
    return EXIT_FAILURE;
  }
  const Batch batch = make_batch(ranks);
  const std::vector<Results> results = train_together(ranks, batch);
  std::printf("ranks: %d, NCCL: %s\nbeside one batch of %zu in float64, largest difference:\n",
              ranks, syncnorm::query_capabilities().nccl, batch.n);
  return compare(batch, results) ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return EXIT_FAILURE;
}
