// The phases used apart: a rank starts the sum of its wire, computes something else meanwhile, and
// finishes when the sum has come. The block is y = norm(x) + P x: the projection P x is computed
// while the forward sum travels, the gradient of P while the backward one does.
//
// The sums are those of the trainer's own ring (ring.hpp). With MPI, start would be MPI_Iallreduce
// and finish MPI_Wait; with NCCL, start a stream of its own and finish an event.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ring.hpp"
#include "syncnorm/syncnorm.hpp"

namespace {

constexpr std::size_t kChannels = 6, kPositions = 49;
using Values = std::vector<float>;

// One rank's part of the batch, and what comes of it.
struct Shard {
  Shard(std::size_t samples, std::size_t first) : n(samples) {
    for (std::size_t i = first * kChannels * kPositions; x.size() < size(); ++i) {
      x.push_back(std::sin(7 * static_cast<float>(i)) + 3);
      dy.push_back(std::cos(3 * static_cast<float>(i)));
    }
  }
  std::size_t size() const { return n * kChannels * kPositions; }
  syncnorm::Shape shape() const {
    return {static_cast<std::int64_t>(n), kChannels, kPositions, SYNCNORM_FLOAT32};
  }

  syncnorm::ForwardArgs forward() {
    syncnorm::ForwardArgs args;
    args.x = {x.data(), shape()};
    args.residual = {projected.data(), shape()};
    args.y = {y.data(), shape()};
    args.saved = saved;
    return args;
  }
  syncnorm::BackwardArgs backward() {
    syncnorm::BackwardArgs args;
    args.x = {x.data(), shape()};
    args.dy = {dy.data(), shape()};
    args.saved = saved;
    args.dx = {dx.data(), shape()};
    return args;
  }

  std::size_t n;
  Values x, dy;
  Values projected = Values(size()), y = Values(size()), dx = Values(size());
  Values weight = Values(kChannels * kChannels, 0.25F), dweight = Values(weight.size());
  std::vector<double> saved = std::vector<double>(syncnorm::query_sizes(shape(), {}).saved);
};

// Every product of the projection, which is projected[i_out] = sum of weight[i_w] * x[i_in].
template <class Body>
void for_each_product(const Shard& shard, Body&& body) {
  for (std::size_t i_w = 0; i_w < shard.weight.size(); ++i_w) {
    for (std::size_t i = 0; i < shard.n * kPositions; ++i) {
      const std::size_t sample = i / kPositions * kChannels, position = i % kPositions;
      body((sample + i_w / kChannels) * kPositions + position, i_w,
           (sample + i_w % kChannels) * kPositions + position);
    }
  }
}

void project(Shard& s) {
  for_each_product(s, [&](std::size_t i_out, std::size_t i_w, std::size_t i_in) {
    s.projected[i_out] += s.weight[i_w] * s.x[i_in];
  });
}

void project_backward(Shard& s) {
  for_each_product(s, [&](std::size_t i_out, std::size_t i_w, std::size_t i_in) {
    s.dweight[i_w] += s.dy[i_out] * s.x[i_in];
  });
}

void finish(std::future<bool>& sum) {
  if (!sum.get()) throw std::runtime_error("the ring is broken: a rank did not come");
}

void train_overlapped(Shard& shard, Ring& ring) {
  const syncnorm::Options options;
  const syncnorm::Sizes sizes = syncnorm::query_sizes(shard.shape(), options);
  const syncnorm::Workspace workspace(sizes.workspace);
  const syncnorm::Launch launch = syncnorm::Launch::cpu(workspace);

  // [doc: phases]
  std::vector<double> wire(sizes.wire), total(sizes.wire);
  syncnorm::moments(options, shard.forward(), wire, launch);
  std::future<bool> sum = ring.start(wire, total);
  project(shard);
  finish(sum);
  syncnorm::normalize(options, shard.forward(), ring.size(), wire, total, launch);

  std::vector<double> grad_wire(sizes.grad_wire), grad_total(sizes.grad_wire);
  syncnorm::grad_moments(options, shard.backward(), grad_wire, launch);
  std::future<bool> grad_sum = ring.start(grad_wire, grad_total);
  project_backward(shard);
  finish(grad_sum);
  syncnorm::grad_input(options, shard.backward(), ring.size(), grad_wire, grad_total, launch);
  // [end]
}

// The ring as a communicator: a function and its context.
// [doc: callback]
syncnorm_status sum_over_ring(void* ring, const double* src, double* dst, std::int64_t n, void*) {
  const bool done = static_cast<Ring*>(ring)->all_reduce(src, dst, static_cast<std::size_t>(n));
  return done ? SYNCNORM_OK : SYNCNORM_INTERNAL;
}

void train_in_one_call(Shard& shard, Ring& ring) {
  const syncnorm_callbacks own{sizeof(own), &ring, sum_over_ring, nullptr, nullptr, 0};
  syncnorm_comm* handle = nullptr;
  syncnorm::require_ok(syncnorm_comm_create_callback(ring.rank(), ring.size(), &own, &handle));
  auto comm = syncnorm::Communicator::adopt(handle);

  const syncnorm::Workspace workspace(syncnorm::query_sizes(shard.shape(), {}).workspace);
  project(shard);
  syncnorm::forward({}, shard.forward(), comm, syncnorm::Launch::cpu(workspace));
  project_backward(shard);
  syncnorm::backward({}, shard.backward(), comm, syncnorm::Launch::cpu(workspace));
}
// [end]

// Every rank in its own thread.
std::vector<Shard> train(const std::vector<std::size_t>& samples, void (*step)(Shard&, Ring&)) {
  std::vector<Ring> ring = Ring::of(samples.size());
  std::vector<Shard> shards;
  std::size_t first = 0;
  for (const std::size_t n : samples) {
    shards.emplace_back(n, first);
    first += n;
  }
  std::vector<std::thread> ranks;
  for (std::size_t r = 0; r < shards.size(); ++r) {
    ranks.emplace_back([&, r] { step(shards[r], ring[r]); });
  }
  for (std::thread& rank : ranks) rank.join();
  return shards;
}

Values joined(const std::vector<Shard>& shards, Values Shard::* tensor) {
  Values all;
  for (const Shard& s : shards) all.insert(all.end(), (s.*tensor).begin(), (s.*tensor).end());
  return all;
}

float difference(const std::vector<Shard>& shards, const std::vector<Shard>& others,
                 Values Shard::* tensor) {
  const Values a = joined(shards, tensor), b = joined(others, tensor);
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

}  // namespace

int main() {
  const auto overlapped = train({4, 0, 3}, train_overlapped);
  const auto in_one_call = train({4, 0, 3}, train_in_one_call);
  const auto whole = train({7}, train_in_one_call);

  bool good = true;
  const auto report = [&](const char* name, const std::vector<Shard>& beside, float bound) {
    const float y = difference(overlapped, beside, &Shard::y);
    const float dx = difference(overlapped, beside, &Shard::dx);
    std::printf("overlapped, on 3 ranks, beside %s: largest difference: y %.1e, dx %.1e\n", name,
                static_cast<double>(y), static_cast<double>(dx));
    good = good && y <= bound && dx <= bound;
  };
  report("one call", in_one_call, 0);
  report("one rank with the whole batch", whole, 32 * std::numeric_limits<float>::epsilon());
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
