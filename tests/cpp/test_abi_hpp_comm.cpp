// Communicators through the C++ face.
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "hpp_support.hpp"

namespace {

constexpr std::chrono::seconds kAmple{60};

TEST_CASE("handles know their group, split and move") {
  auto ranks = Communicator::thread_group(3, kAmple);
  CHECK(ranks[2].rank() == 2);
  CHECK(ranks[2].size() == 3);
  CHECK(ranks[2].kind() == "threads");
  CHECK(ranks[2].device_memory() == 1 << SYNCNORM_CPU);
  Values totals(3);
  std::vector<int> joined(3);
  on_every_rank(ranks, [&](std::size_t r, Communicator& rank) {
    auto part = rank.split(r == 1 ? -1 : 0);
    joined[r] = part.has_value();
    const Values src{1.0 + static_cast<double>(r)};
    if (part) part->sum(src, syncnorm::Span<double>(&totals[r], 1));
  });
  CHECK(joined == std::vector<int>{1, 0, 1});
  CHECK(totals == Values{4, 0, 4});

  Communicator moved = std::move(ranks[0]);
  CHECK(moved);
  CHECK(!ranks[0]);
  CHECK_THROWS_AS(ranks[0].poll(), syncnorm::InvalidArgument);
  moved.abort("over");
  CHECK_THROWS_WITH_AS(moved.poll(), doctest::Contains("over"), syncnorm::InternalError);
}

// Functions over a threads group, as a trainer would pass its own.
syncnorm::Callbacks over(std::shared_ptr<Communicator> comm) {
  syncnorm::Callbacks callbacks;
  callbacks.sum = [comm](const double* src, double* dst, std::int64_t count, void*) {
    const auto size = static_cast<std::size_t>(count);
    comm->sum({src, size}, {dst, size});
  };
  callbacks.split = [comm](int color, int key) -> std::optional<syncnorm::Callbacks::Group> {
    auto part = comm->split(color, key);
    if (!part) return std::nullopt;
    auto shared = std::make_shared<Communicator>(std::move(*part));
    return syncnorm::Callbacks::Group{shared->rank(), shared->size(), over(shared)};
  };
  return callbacks;
}

TEST_CASE("C++ functions as a communicator") {
  std::vector<Communicator> ranks;
  for (auto& rank : Communicator::thread_group(3, kAmple)) {
    const int r = rank.rank();
    ranks.push_back(
        Communicator::callback(r, 3, over(std::make_shared<Communicator>(std::move(rank)))));
  }
  Values totals(3);
  on_every_rank(ranks, [&](std::size_t r, Communicator& rank) {
    auto part = rank.split(static_cast<int>(r) % 2, 0);
    const Values src{1.0 + static_cast<double>(r)};
    part.value().sum(src, syncnorm::Span<double>(&totals[r], 1));
  });
  CHECK(totals == Values{4, 2, 4});
}

TEST_CASE("what a callback throws comes out unchanged, once") {
  struct Lost : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  auto alive = std::make_shared<int>(0);
  syncnorm::Callbacks callbacks;
  callbacks.sum = [alive](const double*, double*, std::int64_t, void*) { throw Lost("cable"); };
  auto rank = Communicator::callback(1, 2, std::move(callbacks));
  CHECK(alive.use_count() == 2);

  Shard shard = make_shards()[0];
  const syncnorm::Workspace workspace(syncnorm::query_sizes(shard.shape(), {}).workspace);
  const auto launch = syncnorm::Launch::cpu(workspace);
  CHECK_THROWS_WITH_AS(syncnorm::forward({}, shard.forward(), rank, launch), "cable", Lost);
  CHECK_THROWS_AS(syncnorm::forward({}, shard.forward(), rank, launch), syncnorm::InternalError);
  CHECK_THROWS_AS(rank.split(0), syncnorm::Unsupported);
  CHECK(shard.y == Values(4, 0.0));
  rank = Communicator();
  CHECK(alive.use_count() == 1);

  CHECK_THROWS_AS(Communicator::callback(0, 1, {}), syncnorm::InvalidArgument);
}

TEST_CASE("abort reaches the trainer's own function, of the group and of its parts") {
  std::vector<std::string> reasons;
  const auto abortable = [&](const std::string& name) {
    syncnorm::Callbacks callbacks;
    callbacks.sum = [](const double*, double*, std::int64_t, void*) {};
    callbacks.abort = [&reasons, name](const std::string& reason) {
      reasons.push_back(name + ": " + reason);
    };
    return callbacks;
  };
  syncnorm::Callbacks callbacks = abortable("group");
  callbacks.split = [&](int, int) { return syncnorm::Callbacks::Group{0, 1, abortable("part")}; };
  auto rank = Communicator::callback(0, 1, std::move(callbacks));
  auto part = rank.split(0);
  part.value().abort("enough");
  rank.abort("over");
  CHECK(reasons == std::vector<std::string>{"part: enough", "group: over"});
  CHECK_THROWS_WITH_AS(rank.poll(), doctest::Contains("over"), syncnorm::InternalError);
}

}  // namespace
