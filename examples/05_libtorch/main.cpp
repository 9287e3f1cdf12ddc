// Synchronized batch normalization in LibTorch: three ranks, each a thread with its own model and
// its own part of a batch, beside torch::nn::BatchNorm2d on the whole batch in float64.
#include <torch/nn/modules/batchnorm.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <limits>
#include <vector>

#include "sync_batch_norm.hpp"

namespace {

constexpr std::int64_t kChannels = 5;

// A part of the batch, and what becomes of it.
struct Shard {
  at::Tensor x, dy;
  at::Tensor y, dx, dweight, dbias, running_mean, running_var;
};

// Every layer begins with these.
template <class Layer>
Layer with_parameters(Layer layer) {
  const torch::NoGradGuard none;
  layer->weight.copy_(torch::linspace(-1.0, 2.0, kChannels));
  layer->bias.copy_(torch::linspace(1.0, -1.0, kChannels));
  return layer;
}

template <class Layer>
void train(Layer& layer, Shard& shard) {
  const at::Tensor x = shard.x.detach().requires_grad_();
  shard.y = layer->forward(x);
  shard.y.backward(shard.dy);
  shard.dx = x.grad();
  shard.dweight = layer->weight.grad();
  shard.dbias = layer->bias.grad();
  shard.running_mean = layer->running_mean;
  shard.running_var = layer->running_var;
}

// Where a rank throws its layer ends, and with it its handle: the others do not wait for it.
// [doc: torch-threads]
void train_together(std::vector<Shard>& shards) {
  auto comms = syncnorm::Communicator::thread_group(static_cast<int>(shards.size()),
                                                    std::chrono::seconds(60));
  std::vector<std::future<void>> ranks;
  for (std::size_t r = 0; r < shards.size(); ++r) {
    ranks.push_back(std::async(std::launch::async, [&, r] {
      auto layer =
          with_parameters(SyncBatchNorm(kChannels, c10::make_intrusive<Rank>(std::move(comms[r]))));
      train(layer, shards[r]);
    }));
  }
  for (auto& rank : ranks) rank.get();
}
// [end]

std::vector<Shard> divide(const Shard& whole, const std::vector<std::int64_t>& samples) {
  const auto x = whole.x.split_with_sizes(samples), dy = whole.dy.split_with_sizes(samples);
  std::vector<Shard> shards(samples.size());
  for (std::size_t r = 0; r < shards.size(); ++r) {
    shards[r].x = x[r].to(at::kFloat);
    shards[r].dy = dy[r].to(at::kFloat);
  }
  shards[1].x = shards[1].x.contiguous(at::MemoryFormat::ChannelsLast);  // to each rank its own
  return shards;
}

std::vector<at::Tensor> of_each(const std::vector<Shard>& shards, at::Tensor Shard::* tensor) {
  std::vector<at::Tensor> tensors;
  for (const Shard& shard : shards) tensors.push_back(shard.*tensor);
  return tensors;
}

// `terms`: the magnitude of what was added.
bool agrees(const char* name, const at::Tensor& got, const at::Tensor& expected, double terms) {
  const double largest = (got - expected).abs().max().item<double>();
  const double allowed = 8 * std::numeric_limits<float>::epsilon() * terms;
  std::printf("  %-12s %.1e of %.1e allowed\n", name, largest, allowed);
  return largest <= allowed;
}

bool compare(const std::vector<Shard>& shards, const Shard& whole) {
  const auto all = [&](at::Tensor Shard::* tensor) { return at::cat(of_each(shards, tensor)); };
  const auto sum = [&](at::Tensor Shard::* tensor) {
    return at::stack(of_each(shards, tensor)).sum(0, false, at::kDouble);
  };
  const auto largest = [](const at::Tensor& values) { return values.abs().max().item<double>(); };
  const auto count = static_cast<double>(whole.x.numel() / kChannels);
  bool right = agrees("y", all(&Shard::y), whole.y, largest(whole.y));
  right &= agrees("dx", all(&Shard::dx), whole.dx, largest(whole.dx));
  right &= agrees("dweight", sum(&Shard::dweight), whole.dweight, count * largest(whole.dy));
  right &= agrees("dbias", sum(&Shard::dbias), whole.dbias, count * largest(whole.dy));
  for (const Shard& shard : shards) {
    right &= agrees("running_mean", shard.running_mean, whole.running_mean, largest(whole.x));
    right &= agrees("running_var", shard.running_var, whole.running_var, largest(whole.x.square()));
  }
  return right;
}

}  // namespace

int main() {
  torch::manual_seed(3);
  Shard whole;  // what float32 holds, in float64
  whole.x = (2 * torch::randn({6, kChannels, 4, 3}) + 3).to(at::kDouble);
  whole.dy = torch::randn_like(whole.x).to(at::kFloat).to(at::kDouble);
  std::vector<Shard> shards = divide(whole, {3, 1, 2});
  train_together(shards);

  auto layer = with_parameters(torch::nn::BatchNorm2d(kChannels));
  layer->to(at::kDouble);
  train(layer, whole);
  std::printf("3 ranks with 3, 1 and 2 samples beside BatchNorm2d on all 6, largest difference:\n");
  return compare(shards, whole) ? EXIT_SUCCESS : EXIT_FAILURE;
}
