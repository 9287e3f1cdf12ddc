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

uint3 index_of(std::uint64_t block, const dim3& blocks) {
  const auto x = static_cast<unsigned>(block % blocks.x);
  const auto y = static_cast<unsigned>(block / blocks.x % blocks.y);
  const auto z = static_cast<unsigned>(block / blocks.x / blocks.y);
  return {x, y, z};
}

Crews& crews_of_thread() {
  static thread_local Crews crews;
  return crews;
}

}  // namespace

GridRun::GridRun(Grid grid, std::uint64_t seed)
    : grid_(std::move(grid)), order_(seed), state_(std::make_unique<GridState>()) {
  const Overlooked overlooked;
  numbers_ = draw_block_order();
  crews_.give_all(crews_of_thread());
}

GridRun::~GridRun() {
  const Overlooked overlooked;
  residents_.clear();
  residents_.clear();
  crews_of_thread().give_all(crews_);
  acquire(&state_->end);
}

std::vector<std::uint64_t> GridRun::draw_block_order() {
  std::vector<std::uint64_t> numbers(count(grid_.blocks));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t i = 0; order_.drawn() && i + 1 < numbers.size(); ++i)
    std::swap(numbers[i], numbers[i + order_.next(numbers.size() - i)]);
  return numbers;
}

std::unique_ptr<Block> GridRun::make_block(std::uint64_t number, std::uint64_t seed) {
  return std::make_unique<Block>(grid_, *state_, crews_, index_of(number, grid_.blocks), seed);
}

void GridRun::run_resident(Resident& resident) {
  resident.carrier.run([&, seed = draw_block_seed()] {
    const Overlooked overlooked;
    if (resident.block == nullptr) resident.block = make_block(resident.number, seed);
    resident.stop = resident.block->run();
  });
}

void GridRun::start_early(int resident_blocks) {
  const Overlooked overlooked;
  state_->dependency_pending = true;
  std::uint64_t blocks = numbers_.size();
  if (!grid_.cooperative) blocks = std::min(blocks, static_cast<std::uint64_t>(resident_blocks));
  if (kThreadSanitizer)
    blocks = std::min(blocks, std::max<std::uint64_t>(kObservedEarly / count(grid_.threads), 1));
  for (std::size_t i = 0; i < blocks; ++i) {
    Resident& resident = residents_.emplace_back();
    resident.number = numbers_[i];
    run_resident(resident);
  }
}

void GridRun::finish() {
  const std::uint64_t threads = count(grid_.threads);
  const std::uint64_t blocks = numbers_.size();
  if (kThreadSanitizer && threads * (grid_.cooperative ? blocks : 1) > kMostObserved)
    throw Fault{std::to_string(blocks) + " blocks of " + std::to_string(threads) +
                " threads at once are too many for ThreadSanitizer; the most is " +
                std::to_string(kMostObserved) + " threads"};
  const Overlooked overlooked;
  state_->dependency_pending = false;
  for (Resident& resident : residents_)
    if (resident.stop == Block::Stop::kAtDependency) {
      resident.block->leave_dependency();
      run_resident(resident);
    }
  if (grid_.cooperative)
    run_together();
  else if (kThreadSanitizer)
    run_in_turn_observed();
  else
    run_in_turn();
}

// Each block starts when the one before it has ended.
void GridRun::run_in_turn() {
  for (const std::uint64_t number : std::span(numbers_).subspan(residents_.size()))
    make_block(number, draw_block_seed())->run();
}

// The same for ThreadSanitizer: a thread of the system for each block, lest the shared variables of
// one be taken for those of another, and the last blocks are kept, lest their threads be taken for
// those of the next.
void GridRun::run_in_turn_observed() {
  std::deque<std::unique_ptr<Block>> ended;
  for (Resident& resident : residents_) ended.push_back(std::move(resident.block));
  for (const std::uint64_t number : std::span(numbers_).subspan(residents_.size())) {
    Carrier().run([&, seed = draw_block_seed()] {
      const Overlooked overlooked;
      ended.push_back(make_block(number, seed));
      ended.back()->run();
    });
    const std::uint64_t blocks = ended.size();
    if (blocks > 1 && blocks * count(grid_.threads) > kObservedAfterEnd) ended.pop_front();
  }
}

// All blocks at once: each runs until it has ended or waits for the others.
void GridRun::run_together() {
  for (const std::uint64_t number : std::span(numbers_).subspan(residents_.size())) {
    Resident& resident = residents_.emplace_back();
    resident.number = number;
    run_resident(resident);
  }
  const auto ended = [](const Resident& r) { return r.stop == Block::Stop::kEnded; };
  while (!std::ranges::all_of(residents_, ended)) {
    if (const auto some = std::ranges::count_if(residents_, ended))
      throw Fault{std::to_string(some) + " of " + std::to_string(residents_.size()) +
                  " blocks have ended while the others wait in sync() of the grid"};
    std::uint32_t clock = 0;
    for (const Resident& resident : residents_)
      clock = std::max(clock, resident.block->clock(Thread::State::kAtGrid));
    for (Resident& resident : residents_) resident.block->leave_grid_barrier(clock);
    for (const std::uint64_t i : draw_block_order()) run_resident(residents_[i]);
  }
}

}  // namespace simt
