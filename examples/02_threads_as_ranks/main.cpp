// Three ranks, each a thread with its own part of a batch, give what one big batch gives: forward,
// backward and running statistics.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "syncnorm/syncnorm.hpp"

namespace {

constexpr std::int64_t kChannels = 3;
constexpr std::int64_t kPositions = 5;

// One rank's tensors, of n samples: (n, kChannels, kPositions).
struct Shard {
  explicit Shard(std::int64_t samples) : n(samples), x(size()), dy(size()), y(size()), dx(size()) {}
  std::size_t size() const { return static_cast<std::size_t>(n * kChannels * kPositions); }

  std::int64_t n;
  std::vector<float> x, dy, y, dx;
  std::vector<float> running_mean = std::vector<float>(kChannels, 0.0F);
  std::vector<float> running_var = std::vector<float>(kChannels, 1.0F);
};

void train(Shard& shard, syncnorm::Communicator& comm) {
  const syncnorm::Options options;
  const syncnorm::Shape shape{shard.n, kChannels, kPositions};
  const syncnorm::Sizes sizes = syncnorm::query_sizes(shape, options);
  const syncnorm::Workspace workspace(sizes.workspace);
  const syncnorm::Launch launch = syncnorm::Launch::cpu(workspace);
  std::vector<double> saved(sizes.saved);

  syncnorm::ForwardArgs forward;
  forward.x = {shard.x.data(), shape};
  forward.y = {shard.y.data(), shape};
  forward.running_mean = shard.running_mean.data();
  forward.running_var = shard.running_var.data();
  forward.saved = saved;
  syncnorm::forward(options, forward, comm, launch);

  syncnorm::BackwardArgs backward;
  backward.x = forward.x;
  backward.dy = {shard.dy.data(), shape};
  backward.saved = saved;
  backward.dx = {shard.dx.data(), shape};
  syncnorm::backward(options, backward, comm, launch);
}

// Every rank in its own thread.
// [doc: threads]
void train_together(std::vector<Shard>& shards) {
  auto comms = syncnorm::Communicator::thread_group(static_cast<int>(shards.size()),
                                                    std::chrono::seconds(10));
  std::vector<std::thread> ranks;
  for (std::size_t r = 0; r < shards.size(); ++r) {
    ranks.emplace_back([&, r] { train(shards[r], comms[r]); });
  }
  for (std::thread& rank : ranks) rank.join();
}
// [end]

// [doc: difference]
// How far the shards, end to end, are from the big batch.
double difference(const std::vector<Shard>& shards, const std::vector<float>& big,
                  std::vector<float> Shard::* tensor) {
  double largest = 0.0;
  auto expected = big.begin();
  for (const Shard& shard : shards) {
    for (const float value : shard.*tensor) {
      largest = std::max(largest, std::abs(static_cast<double>(value) - *expected++));
    }
  }
  return largest;
}
// [end]

}  // namespace

int main() {
  std::vector<Shard> shards{Shard(4), Shard(1), Shard(2)};
  std::vector<Shard> whole{Shard(7)};
  std::size_t i = 0;
  for (Shard& shard : shards) {
    for (std::size_t j = 0; j < shard.size(); ++j, ++i) {
      whole[0].x[i] = shard.x[j] = std::sin(static_cast<float>(7 * i)) + 3.0F;
      whole[0].dy[i] = shard.dy[j] = std::cos(static_cast<float>(3 * i));
    }
  }
  train_together(shards);
  train_together(whole);

  const double y = difference(shards, whole[0].y, &Shard::y);
  const double dx = difference(shards, whole[0].dx, &Shard::dx);
  std::printf("3 ranks with 4, 1 and 2 samples beside one batch of 7, largest difference:\n");
  std::printf("  y %.1e, dx %.1e\n", y, dx);
  for (std::size_t c = 0; c < kChannels; ++c) {
    std::printf("  channel %zu: running mean %.6f beside %.6f, running var %.6f beside %.6f\n", c,
                static_cast<double>(shards[1].running_mean[c]),
                static_cast<double>(whole[0].running_mean[c]),
                static_cast<double>(shards[1].running_var[c]),
                static_cast<double>(whole[0].running_var[c]));
  }
  return y < 1e-5 && dx < 1e-5 ? EXIT_SUCCESS : EXIT_FAILURE;
}
