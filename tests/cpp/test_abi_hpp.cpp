// The C++ face, through the shared library as an embedder has it.
#include <array>
#include <chrono>
#include <cmath>
#include <span>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

#include "hpp_support.hpp"

namespace {

constexpr std::chrono::seconds kAmple{60};

static_assert(std::is_base_of_v<std::runtime_error, syncnorm::Timeout>);

// What the types tell. tests/python/house/consumer/misuse.cpp has the calls that do not compile.
template <class From, class To>
constexpr bool kBecomes = std::is_convertible_v<From, To>;
using Floats = std::vector<float>;
using Out = syncnorm::Span<double>;
using In = syncnorm::Span<const double>;
static_assert(kBecomes<Values&, Out> && kBecomes<Values&, In> && kBecomes<const Values&, In>);
static_assert(kBecomes<std::span<double>, Out> && kBecomes<Out, In>, "a view may be a temporary");
static_assert(!kBecomes<Values, Out> && !kBecomes<Values, In>, "its values would be gone");
static_assert(!kBecomes<std::array<double, 4>, In> && !kBecomes<const Values, In>);
static_assert(!kBecomes<const Values&, Out> && !kBecomes<In, Out>, "an output is not const");
static_assert(!kBecomes<Floats&, Out> && !kBecomes<Floats&, In>, "wires are float64");

using syncnorm::ConstTensorView, syncnorm::TensorView;
static_assert(kBecomes<TensorView, ConstTensorView> && !kBecomes<ConstTensorView, TensorView>);
static_assert(std::is_constructible_v<TensorView, float*, int, int>);
static_assert(!std::is_constructible_v<TensorView, const float*, int, int>);
static_assert(!std::is_constructible_v<TensorView, int*, int, int>, "no dtype");
static_assert(kBecomes<const float*, syncnorm::ConstVector>);
static_assert(!kBecomes<const float*, syncnorm::Vector> && !kBecomes<int*, syncnorm::Vector>);
static_assert(std::is_constructible_v<syncnorm::Vector, void*, syncnorm_dtype>);
static_assert(!std::is_constructible_v<syncnorm::Vector, void*, int>, "an int is no dtype");
static_assert(!std::is_constructible_v<syncnorm::Vector, void*, syncnorm_layout>);

using syncnorm::Workspace, syncnorm::WorkspaceView;
static_assert(kBecomes<Workspace&, WorkspaceView> && kBecomes<const Workspace&, WorkspaceView>);
static_assert(!kBecomes<Workspace, WorkspaceView> && !kBecomes<const Workspace, WorkspaceView>);
static_assert(!std::is_copy_constructible_v<Workspace> && !kBecomes<int, Workspace>);

static_assert(std::is_nothrow_move_constructible_v<Communicator>);
static_assert(!std::is_copy_constructible_v<Communicator>);
static_assert(!std::is_constructible_v<Communicator, syncnorm::CommunicatorView>, "it is borrowed");
static_assert(!std::is_constructible_v<Communicator, syncnorm_comm*>, "adopt says whose it is");
static_assert(kBecomes<syncnorm::CommunicatorView, syncnorm_comm*>);

TEST_CASE("one call over threads") {
  auto ranks = Communicator::thread_group(2, kAmple);
  auto shards = make_shards();
  on_every_rank(ranks, [&](std::size_t r, Communicator& rank) {
    const syncnorm::Workspace workspace(syncnorm::query_sizes(shards[r].shape(), {}).workspace);
    const auto launch = syncnorm::Launch::cpu(workspace);
    syncnorm::forward({}, shards[r].forward(), rank, launch);
    syncnorm::backward({}, shards[r].backward(), rank, launch);
  });
  check_shards(shards);
}

TEST_CASE("the phases, with the wires summed by the caller") {
  auto shards = make_shards();
  const syncnorm::Options options;
  syncnorm::Workspace workspace;
  for (const Shard& shard : shards) {
    workspace.reserve(syncnorm::query_sizes(shard.shape(), options).workspace);
  }
  const auto launch = syncnorm::Launch::cpu(workspace);
  const syncnorm::Sizes sizes = syncnorm::query_sizes(shards[0].shape(), options);
  REQUIRE(sizes.center_wire > 0);
  const auto added = [&](const std::vector<Values>& wires) {
    Values gathered = wires[0], total(wires[0].size());
    gathered.insert(gathered.end(), wires[1].begin(), wires[1].end());
    syncnorm::add_wires(gathered, total, launch);
    CHECK_THROWS_AS(syncnorm::add_wires({gathered.data(), 3}, total, launch),
                    syncnorm::InvalidArgument);
    return total;
  };

  std::vector<Values> wires(2, Values(sizes.wire)), local_vars(2, Values(1));
  std::vector<Values> center_wires(2, Values(sizes.center_wire));
  std::vector<Values> grad_wires(2, Values(sizes.grad_wire));
  for (std::size_t r = 0; r < 2; ++r) {
    syncnorm::moments(options, shards[r].forward(), wires[r], launch, local_vars[r]);
  }
  const Values total = added(wires);
  for (std::size_t r = 0; r < 2; ++r) {
    syncnorm::center(options, shards[r].shape(), 2, wires[r], total, local_vars[r], center_wires[r],
                     launch);
  }
  const Values center_total = added(center_wires);
  for (std::size_t r = 0; r < 2; ++r) {
    auto args = shards[r].forward();
    args.running_mean = args.running_var = nullptr;
    args.num_batches_tracked = nullptr;
    syncnorm::normalize(options, args, 2, wires[r], total, launch, center_total);
    CHECK(shards[r].running_mean[0] == 0.0);
    syncnorm::update_running(options, shards[r].forward(), 2, wires[r], total, launch,
                             center_total);
    syncnorm::grad_moments(options, shards[r].backward(), grad_wires[r], launch);
  }
  const Values grad_total = added(grad_wires);
  for (std::size_t r = 0; r < 2; ++r) {
    syncnorm::grad_input(options, shards[r].backward(), 2, grad_wires[r], grad_total, launch);
  }
  check_shards(shards);
}

TEST_CASE("in place y takes the memory of x, and the gradients are the same") {
  auto ranks = Communicator::thread_group(2, kAmple);
  auto shards = make_shards();
  syncnorm::Options options;
  options.in_place = true;
  on_every_rank(ranks, [&](std::size_t r, Communicator& rank) {
    Shard& shard = shards[r];
    const syncnorm::Workspace workspace(syncnorm::query_sizes(shard.shape(), options).workspace);
    const auto launch = syncnorm::Launch::cpu(workspace);
    auto args = shard.forward();
    args.y = {shard.x.data(), shard.shape()};
    syncnorm::forward(options, args, rank, launch);
    shard.y = shard.x;
    syncnorm::backward(options, shard.backward(), rank, launch);
    CHECK(shard.x == shard.y);
  });
  check_shards(shards);
}

TEST_CASE("a group of one, and running statistics in use") {
  Values x{1, 2, 3, 6}, y(4), dy{1, 1, 1, 2}, dx(4), saved(5);
  Values mean{3}, var{4 - 1e-5}, dbias(1);
  const syncnorm::Shape shape{4, 1, 1, SYNCNORM_FLOAT64};
  const syncnorm::Workspace workspace(syncnorm::query_sizes(shape, {}).workspace);
  const auto launch = syncnorm::Launch::cpu(workspace, 2);
  syncnorm::ForwardArgs args;
  args.x = {x.data(), shape};
  args.y = {y.data(), shape};
  syncnorm::forward({}, args, launch);
  const double invstd = 1 / std::sqrt(3.5 + 1e-5);
  check_close(y, {-2 * invstd, -invstd, 0, 3 * invstd}, 1e-15);

  args.running_mean = mean.data();
  args.running_var = var.data();
  args.saved = saved;
  syncnorm::infer({}, args, launch);
  check_close(y, {-1, -.5, 0, 1.5}, 1e-15);

  syncnorm::BackwardArgs back;
  back.x = args.x;
  back.dy = {dy.data(), shape};
  back.dx = {dx.data(), shape};
  back.saved = saved;
  back.dbias = dbias.data();
  syncnorm::infer_backward({}, back, launch);
  check_close(dx, {.5, .5, .5, 1}, 1e-15);
  CHECK(dbias[0] == 5);

  syncnorm::forward({}, args, launch);
  syncnorm::backward({}, back, launch);
  check_close({dx[0] + dx[1] + dx[2] + dx[3]}, {0}, 1e-15);
}

TEST_CASE("views that do not fit together are refused") {
  auto shards = make_shards();
  Shard& shard = shards[0];
  const syncnorm::Workspace workspace(syncnorm::query_sizes(shard.shape(), {}).workspace);
  const auto launch = syncnorm::Launch::cpu(workspace);
  Values wire(5);
  CHECK_THROWS_WITH_AS(syncnorm::moments({}, shard.forward(), wire, launch),
                       "wire has 5 values, expected 6: see query_sizes", syncnorm::InvalidArgument);
  auto args = shard.forward();
  args.y = {shard.y.data(), 4, 1};
  CHECK_THROWS_AS(syncnorm::forward({}, args, launch), syncnorm::InvalidArgument);
  args = shard.forward();
  args.saved = wire;
  wire.resize(4);
  args.saved = wire;
  CHECK_THROWS_AS(syncnorm::forward({}, args, launch), syncnorm::InvalidArgument);
  CHECK(shard.y == Values(4, 0.0));
}

TEST_CASE("statuses come as the exceptions of their names") {
  syncnorm::Options options;
  options.eps = -1;
  CHECK_THROWS_AS(syncnorm::query_sizes({1, 1, 1}, options), syncnorm::InvalidArgument);
  CHECK_THROWS_AS(Communicator::thread_group(0, kAmple), syncnorm::InvalidArgument);

  auto ranks = Communicator::thread_group(2, std::chrono::milliseconds(50));
  Values one(1), total(1);
  CHECK_THROWS_AS(ranks[0].sum(one, total, SYNCNORM_CUDA, nullptr), syncnorm::Unsupported);
  CHECK_THROWS_AS(ranks[0].sum(one, {}), syncnorm::InvalidArgument);
  CHECK_NOTHROW(ranks[0].poll());
  CHECK_THROWS_AS(ranks[0].sum(one, total), syncnorm::Timeout);
  try {
    ranks[1].poll();
    FAIL("the group has failed, and poll says nothing");
  } catch (const syncnorm::Error& error) {
    CHECK(error.status() == SYNCNORM_TIMEOUT);
    CHECK(std::string(error.what()).find("missing: rank 1") != std::string::npos);
  }
}

TEST_CASE("ranks in different calls are told apart") {
  auto ranks = Communicator::thread_group(2, kAmple);
  auto shards = make_shards();
  CHECK_THROWS_AS(on_every_rank(ranks,
                                [&](std::size_t r, Communicator& rank) {
                                  syncnorm::Options options;
                                  options.eps = r == 0 ? 1e-5 : 1e-3;
                                  const syncnorm::Workspace workspace(
                                      syncnorm::query_sizes(shards[r].shape(), options).workspace);
                                  syncnorm::forward(options, shards[r].forward(), rank,
                                                    syncnorm::Launch::cpu(workspace));
                                }),
                  syncnorm::Desync);
  CHECK(shards[0].y == Values(4, 0.0));
}

}  // namespace
