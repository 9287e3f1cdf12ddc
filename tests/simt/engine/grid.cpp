#include "engine/grid.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>
#include <utility>

#include "engine/sanitizers.hpp"

namespace simt {
namespace {

constexpr std::uint64_t kMostObserved = 7500;     // ThreadSanitizer counts to 8128
constexpr std::uint64_t kObservedAfterEnd = 512;  // more make it slow
constexpr std::uint64_t kObservedEarly = 256;

std::uint64_t count(const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }

uint3 index_of(std::uint64_t number, const dim3& size) {
  const auto x = static_cast<unsigned>(number % size.x);
  const auto y = static_cast<unsigned>(number / size.x % size.y);
  const auto z = static_cast<unsigned>(number / size.x / size.y);
  return {x, y, z};
}

}  // namespace

GridRun::GridRun(Grid grid, std::uint64_t seed)
    : grid_(std::move(grid)), order_(seed), state_(std::make_unique<GridState>()) {
  const Overlooked overlooked;
  starts_ = draw_starts();
}

GridRun::~GridRun() {
  const Overlooked overlooked;
  residents_.clear();
  acquire(&state_->end);
}

std::uint64_t GridRun::cluster_size() const { return count(grid_.cluster); }

std::vector<GridRun::Start> GridRun::draw_starts() {
  const dim3& size = grid_.cluster;
  const dim3 clusters(grid_.blocks.x / size.x, grid_.blocks.y / size.y, grid_.blocks.z / size.z);
  std::vector<Start> starts;
  for (const std::uint64_t number : draw_order(count(clusters))) {
    const uint3 cluster = index_of(number, clusters);
    for (unsigned rank = 0; rank < cluster_size(); ++rank) {
      const uint3 place = index_of(rank, size);
      starts.push_back({{cluster.x * size.x + place.x, cluster.y * size.y + place.y,
                         cluster.z * size.z + place.z},
                        rank});
    }
  }
  return starts;
}

std::vector<std::uint64_t> GridRun::draw_order(std::uint64_t count) {
  std::vector<std::uint64_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t i = 0; order_.drawn() && i + 1 < numbers.size(); ++i)
    std::swap(numbers[i], numbers[i + order_.next(numbers.size() - i)]);
  return numbers;
}

std::unique_ptr<Block> GridRun::make_block(const Start& start, std::shared_ptr<Cluster> cluster,
                                           std::uint64_t seed) {
  return std::make_unique<Block>(grid_, *state_, std::move(cluster), start.rank, start.index, seed);
}

void GridRun::start_early(int resident_blocks) {
  const Overlooked overlooked;
  state_->dependency_pending = true;
  std::uint64_t blocks = starts_.size();
  if (!grid_.cooperative) blocks = std::min(blocks, static_cast<std::uint64_t>(resident_blocks));
  if (kThreadSanitizer) blocks = std::min(blocks, kObservedEarly / count(grid_.threads));
  const std::uint64_t clusters = std::max<std::uint64_t>(blocks / cluster_size(), 1);
  add_residents(residents_, std::span(starts_).first(clusters * cluster_size()));
  run_residents(residents_);
}

void GridRun::finish() {
  const std::uint64_t threads = count(grid_.threads);
  const std::uint64_t together = grid_.cooperative ? starts_.size() : cluster_size();
  if (kThreadSanitizer && threads * together > kMostObserved)
    throw Fault{std::to_string(together) + " blocks of " + std::to_string(threads) +
                " threads at once are too many for ThreadSanitizer; the most is " +
                std::to_string(kMostObserved) + " threads"};
  const Overlooked overlooked;
  state_->dependency_pending = false;
  const auto starts = std::span<const Start>(starts_).subspan(residents_.size());
  if (grid_.cooperative) add_residents(residents_, starts);
  run_residents(residents_);
  const auto ended = [](const Resident& r) { return r.stop == Block::Stop::kEnded; };
  if (!std::ranges::all_of(residents_, ended))
    throw Fault{std::to_string(std::ranges::count_if(residents_, ended)) + " of " +
                std::to_string(residents_.size()) +
                " blocks have ended while the others wait in sync() of the grid"};
  if (grid_.cooperative) return;
  if (cluster_size() > 1)
    run_clusters_in_turn(starts);
  else if (kThreadSanitizer)
    run_in_turn_observed(starts);
  else
    run_in_turn(starts);
}

// ---------------------------------------------------------------------------- blocks one by one

// Each block starts when the one before it has ended.
void GridRun::run_in_turn(std::span<const Start> starts) {
  const auto cluster = std::make_shared<Cluster>();
  cluster->blocks.resize(1);
  for (const Start& start : starts) make_block(start, cluster, draw_block_seed())->run();
}

// The same for ThreadSanitizer: a thread of the system for each block, lest the shared variables of
// one be taken for those of another, and the last blocks are kept, lest their threads be taken for
// those of the next.
void GridRun::run_in_turn_observed(std::span<const Start> starts) {
  std::deque<std::unique_ptr<Block>> ended;
  for (Resident& resident : residents_) ended.push_back(std::move(resident.block));
  for (const Start& start : starts) {
    Carrier().run([&, seed = draw_block_seed()] {
      const Overlooked overlooked;
      auto cluster = std::make_shared<Cluster>();
      cluster->blocks.resize(1);
      ended.push_back(make_block(start, std::move(cluster), seed));
      ended.back()->run();
    });
    const std::uint64_t blocks = ended.size();
    if (blocks > 1 && blocks * count(grid_.threads) > kObservedAfterEnd) ended.pop_front();
  }
}

// ------------------------------------------------------------------------ several blocks at once

void GridRun::run_clusters_in_turn(std::span<const Start> starts) {
  // For ThreadSanitizer the last one is kept, lest its threads be taken for those of the next.
  Residents before;
  for (; !starts.empty(); starts = starts.subspan(cluster_size())) {
    Residents cluster;
    add_residents(cluster, starts.first(cluster_size()));
    run_residents(cluster);
    before.swap(cluster);
  }
}

void GridRun::add_residents(Residents& residents, std::span<const Start> starts) {
  for (const Start& start : starts) {
    std::shared_ptr<Cluster> cluster;
    if (start.rank == 0) {
      cluster = std::make_shared<Cluster>();
      cluster->blocks.resize(cluster_size());
    } else {
      cluster = residents.back().cluster;
    }
    Resident& resident = residents.emplace_back();
    resident.cluster = std::move(cluster);
    resident.carrier.run([&, seed = draw_block_seed()] {
      const Overlooked overlooked;
      resident.block = make_block(start, resident.cluster, seed);
    });
  }
}

void GridRun::run_resident(Resident& resident) {
  resident.ready = false;
  resident.carrier.run([&] {
    const Overlooked overlooked;
    resident.stop = resident.block->run();
  });
}

void GridRun::run_residents(Residents& residents) {
  do {
    for (const std::uint64_t i : draw_order(residents.size()))
      if (residents[i].ready) run_resident(residents[i]);
  } while (release_residents(residents));
}

bool GridRun::release_residents(Residents& residents) {
  using Stop = Block::Stop;
  using State = Thread::State;
  const auto release = [](Resident& resident, auto&& leave) {
    leave(*resident.block);
    resident.ready = true;
  };
  bool any = false;
  for (Resident& resident : residents)
    if (resident.stop == Stop::kAtDependency && !state_->dependency_pending) {
      release(resident, [](Block& block) { block.leave_dependency(); });
      any = true;
    }
  for (auto first = residents.begin(); first != residents.end();) {
    const auto end = first + static_cast<std::ptrdiff_t>(cluster_size());
    const std::ranges::subrange cluster(std::exchange(first, end), end);
    std::uint32_t clock = 0;
    std::size_t waiting = 0;
    for (const Resident& resident : cluster) {
      waiting += resident.stop == Stop::kAtCluster;
      clock = std::max(clock, resident.block->clock(State::kAtCluster));
    }
    const auto ended = std::ranges::count(cluster, Stop::kEnded, &Resident::stop);
    if (waiting == 0 || waiting + static_cast<std::size_t>(ended) != cluster_size()) continue;
    for (Resident& resident : cluster)
      if (resident.stop == Stop::kAtCluster)
        release(resident, [&](Block& block) { block.leave_cluster_barrier(clock); });
    any = true;
  }
  const auto at_grid = [](const Resident& r) { return r.stop == Stop::kAtGrid; };
  if (residents.size() == starts_.size() && std::ranges::all_of(residents, at_grid)) {
    std::uint32_t clock = 0;
    for (const Resident& resident : residents)
      clock = std::max(clock, resident.block->clock(State::kAtGrid));
    for (Resident& resident : residents)
      release(resident, [&](Block& block) { block.leave_grid_barrier(clock); });
    any = true;
  }
  return any;
}

}  // namespace simt
