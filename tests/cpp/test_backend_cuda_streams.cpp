// What is enqueued, where, and that it can be captured: streams, graphs, control buffer, status.
#include <cstring>
#include <string>
#include <thread>

#include "backend_run.hpp"
#include "cuda_device.hpp"

contract::Device& contract::device_under_test() { return cuda_device(); }

namespace contract {
namespace {

constexpr syncnorm_layout kBothLayouts[] = {SYNCNORM_CHANNELS_FIRST, SYNCNORM_CHANNELS_LAST};

// Several blocks share each channel, so that partial sums are merged.
Case shared_channels() {
  Case k;
  k.c = 5, k.s = 9001, k.samples = {3, 0, 2};
  return k;
}

std::vector<Rank> ranks_of(const Case& k, unsigned seed = 1) {
  return make_ranks(k, make_shards(k, seed), make_problem(k, SYNCNORM_FLOAT32), SYNCNORM_FLOAT32);
}

bool all_nan(const Buffer& buffer) {
  const std::vector<double> values = buffer.get();
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isnan(v); });
}

bool all_zero(const std::shared_ptr<void>& memory, std::size_t bytes) {
  std::vector<unsigned char> got(bytes, 1);
  device_under_test().download(got.data(), memory.get(), bytes);
  return got == std::vector<unsigned char>(bytes);
}

// The graphs of the three stretches of work between the sums of the wires.
struct PhaseGraphs {
  CudaGraph first, second, third;
  PhaseGraphs(const Case& k, std::vector<Rank>& ranks, cudaStream_t stream)
      : first(stream, [&] { moments(k, ranks); }),
        second(stream,
               [&] {
                 normalize(k, ranks);
                 grad_moments(k, ranks);
               }),
        third(stream, [&] { grad_input(k, ranks); }) {}
};

TEST_CASE("a captured graph replays on other data, with a rank that has none" * kSmall) {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const bool control : {false, true}) {
      INFO("layout ", layout, " control ", control);
      Case k = shared_channels();
      k.layout = layout, k.control = control, k.masked = true;
      const auto problem = make_problem(k, SYNCNORM_FLOAT32);
      std::vector<Rank> ranks = ranks_of(k);
      auto* stream = static_cast<cudaStream_t>(device_under_test().stream());
      const PhaseGraphs graphs(k, ranks, stream);
      for (unsigned seed = 10; seed < 16; ++seed) {
        const auto shards = make_shards(k, seed);
        for (std::size_t r = 0; r < ranks.size(); ++r)
          ranks[r].load(device_under_test(), k, shards[r], problem);
        graphs.first.launch(stream);
        sum_wires(ranks, &Rank::wire, &Rank::total);
        graphs.second.launch(stream);
        sum_wires(ranks, &Rank::grad_wire, &Rank::grad_total);
        graphs.third.launch(stream);
        compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
        for (const Rank& rank : ranks)
          if (control) CHECK(all_zero(rank.control, SYNCNORM_CONTROL_SIZE));
      }
    }
}

TEST_CASE("a captured call of a group of one replays many times") {
  for (const std::int64_t n : {0, 3}) {
    Case k = shared_channels();
    k.samples = {n};
    const auto problem = make_problem(k, SYNCNORM_FLOAT32);
    std::vector<Rank> ranks = ranks_of(k);
    auto* stream = static_cast<cudaStream_t>(device_under_test().stream());
    const CudaGraph graph(stream, [&] { run_one_call(k, ranks[0]); });
    std::vector<unsigned char> first;
    for (int replay = 0; replay < 50; ++replay) {
      const unsigned seed = 20 + replay / 25;  // the same data again and again, then others
      if (replay % 25 == 0) first.clear();
      const auto shards = make_shards(k, seed);
      ranks[0].load(device_under_test(), k, shards[0], problem);
      graph.launch(stream);
      if (first.empty()) {
        if (n > 0) compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
        first = ranks[0].dx.raw();
      }
      CHECK(ranks[0].dx.raw() == first);
    }
  }
}

TEST_CASE("two launches per pass, and a memset only without a control buffer") {
  for (const syncnorm_layout layout : kBothLayouts)
    for (const bool control : {false, true}) {
      Case k = shared_channels();
      k.layout = layout, k.control = control, k.samples = {3};
      std::vector<Rank> ranks = ranks_of(k);
      auto* stream = static_cast<cudaStream_t>(device_under_test().stream());
      const CudaGraph forward(stream, [&] {
        moments(k, ranks);
        normalize(k, ranks);
      });
      const CudaGraph backward(stream, [&] {
        grad_moments(k, ranks);
        grad_input(k, ranks);
      });
      CHECK(forward.nodes() == (control ? 2 : 3));
      CHECK(backward.nodes() == (control ? 2 : 3));
    }
}

TEST_CASE("two launches each way for a group of one, with centring too") {
  for (const syncnorm_layout layout : kBothLayouts) {
    Case k;
    k.layout = layout, k.c = 4, k.s = 1024, k.samples = {2}, k.control = true;
    k.options.centering = SYNCNORM_CENTER_ON;
    const auto shards = make_shards(k, 1);
    const auto problem = make_problem(k, SYNCNORM_FLOAT32);
    std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
    auto* stream = static_cast<cudaStream_t>(device_under_test().stream());
    const CudaGraph both(stream, [&] { run_one_call(k, ranks[0]); });
    CHECK(both.nodes() == 4);
    both.launch(stream);
    compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
  }
}

#ifdef SYNCNORM_SIMT
TEST_CASE("the second launch of a group of one may begin during the first, no other") {
  const auto dependent = [](auto&& work) {
    const std::int64_t before = simt::counts().dependent_kernels;
    work();
    return simt::counts().dependent_kernels - before;
  };
  Case k;
  k.samples = {2};
  std::vector<Rank> ranks = ranks_of(k);
  CHECK(dependent([&] { run_phases(k, ranks); }) == 0);
  CHECK(dependent([&] { run_one_call(k, ranks[0]); }) == 2);  // one each way
}
#endif

TEST_CASE("one launch per phase for a rank without values") {
  Case k = shared_channels();
  k.samples = {0};
  std::vector<Rank> ranks = ranks_of(k);
  auto* stream = static_cast<cudaStream_t>(device_under_test().stream());
  const PhaseGraphs graphs(k, ranks, stream);
  CHECK(graphs.first.nodes() == 1);
  CHECK(graphs.second.nodes() == 2);
  CHECK(graphs.third.nodes() == 1);
}

TEST_CASE("streams that work at the same time do not disturb each other" * kSmall) {
  const Case k = shared_channels();
  const auto problem = make_problem(k, SYNCNORM_FLOAT32);
  const auto worker = [&](unsigned seed) {
    const CudaStream stream;
    const auto shards = make_shards(k, seed);
    std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
    for (Rank& rank : ranks) rank.launch.stream = stream.get();
    run_phases(k, ranks);
    compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
  };
  std::thread other(worker, 1);
  worker(2);
  other.join();
}

TEST_CASE("the default stream is a stream like any other") {
  const Case k = shared_channels();
  const auto shards = make_shards(k, 1);
  const auto problem = make_problem(k, SYNCNORM_FLOAT32);
  std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
  for (Rank& rank : ranks) rank.launch.stream = nullptr;
  run_phases(k, ranks);
  compare(k, ranks, reference::run(problem, shards), SYNCNORM_FLOAT32);
}

TEST_CASE("a device that is not there is named, and the caller's device stays") {
  int count = 0, before = -1, after = -1;
  require_cuda(cudaGetDeviceCount(&count));
  require_cuda(cudaGetDevice(&before));
  Case k;
  std::vector<Rank> ranks = ranks_of(k);
  for (const int index : {-1, count, 1000}) {
    Rank& rank = ranks[0];
    rank.launch.device_index = index;
    CHECK(syncnorm_moments(&rank.shape, &k.options, &rank.forward, rank.wire.doubles(), nullptr,
                           &rank.launch) == SYNCNORM_CUDA_ERROR);
    const std::string message = syncnorm_last_error();
    CHECK(message.find("device_index is " + std::to_string(index)) != std::string::npos);
  }
  require_cuda(cudaGetDevice(&after));
  CHECK(after == before);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
}

TEST_CASE("the caller's device is the current one again after work on another") {
  int count = 0;
  require_cuda(cudaGetDeviceCount(&count));
  for (int index = 0; index < count; ++index) {
    require_cuda(cudaSetDevice(index));
    Case k;
    const auto shards = make_shards(k, 1);
    const auto problem = make_problem(k, SYNCNORM_FLOAT32);
    std::vector<Rank> ranks = make_ranks(k, shards, problem, SYNCNORM_FLOAT32);
    for (Rank& rank : ranks) rank.launch.device_index = index, rank.launch.stream = nullptr;
    require_cuda(cudaSetDevice(0));
    moments(k, ranks);
    int current = -1;
    require_cuda(cudaGetDevice(&current));
    CHECK(current == 0);
    require_cuda(cudaSetDevice(index));
    require_cuda(cudaDeviceSynchronize());
    sum_wires(ranks, &Rank::wire, &Rank::total);
    CHECK(ranks[0].total.get()[1] == 63.0);  // 9 samples of 7 positions
    require_cuda(cudaSetDevice(0));
  }
}

TEST_CASE("ranks in different calls: NaN and the status word, nothing else is touched" * kSmall) {
  for (const syncnorm_layout layout : kBothLayouts) {
    Case k = shared_channels();
    k.layout = layout, k.residual = true, k.options.activation = SYNCNORM_RELU;
    std::vector<Rank> ranks = ranks_of(k);
    Rank& rank = ranks[0];
    const std::shared_ptr<void> status = device_under_test().allocate(sizeof(std::int32_t));
    const auto reset = [&] {
      const std::int32_t none = SYNCNORM_OK;
      device_under_test().upload(status.get(), &none, sizeof(none));
    };
    const auto told = [&] {
      std::int32_t word = -1;
      device_under_test().download(&word, status.get(), sizeof(word));
      return word == SYNCNORM_DESYNC;
    };
    run_phases(k, ranks);
    const auto mean = rank.running_mean.raw(), var = rank.running_var.raw();
    rank.launch.status = static_cast<std::int32_t*>(status.get());

    // The sum of a wire with another tag: h and h^2 no longer fit.
    const auto disturb = [](Buffer& total, std::size_t hash) {
      std::vector<double> values = total.get();
      values[hash] += 1;
      total.set(values);
    };
    reset();
    disturb(rank.total, 2);
    normalize(k, ranks);
    CHECK(told());
    CHECK(all_nan(rank.y));
    const std::vector<double> saved = rank.saved.get();
    CHECK(std::all_of(saved.begin() + 2, saved.end(), [](double v) { return std::isnan(v); }));
    CHECK(rank.running_mean.raw() == mean);
    CHECK(rank.running_var.raw() == var);

    reset();
    disturb(rank.grad_total, 0);
    grad_input(k, ranks);
    CHECK(told());
    CHECK(all_nan(rank.dx));
    CHECK(all_nan(rank.dresidual));
    CHECK(all_nan(rank.dweight));
    CHECK(all_nan(rank.dbias));
  }
}

}  // namespace
}  // namespace contract
