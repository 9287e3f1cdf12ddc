#include "engine/grid.hpp"

#include <algorithm>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/carrier.hpp"
#include "engine/sanitizers.hpp"

namespace simt {
namespace {

constexpr std::uint64_t kMostObserved = 7500;     // ThreadSanitizer counts to 8128
constexpr std::uint64_t kObservedAfterEnd = 512;  // more make it slow

std::uint64_t count(const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }

uint3 index_of(std::uint64_t block, const dim3& blocks) {
  const auto x = static_cast<unsigned>(block % blocks.x);
  const auto y = static_cast<unsigned>(block / blocks.x % blocks.y);
  const auto z = static_cast<unsigned>(block / blocks.x / blocks.y);
  return {x, y, z};
}

std::vector<std::uint64_t> block_order(const dim3& blocks, Order& order) {
  std::vector<std::uint64_t> numbers(count(blocks));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t i = 0; order.drawn() && i + 1 < numbers.size(); ++i)
    std::swap(numbers[i], numbers[i + order.next(numbers.size() - i)]);
  return numbers;
}

std::uint64_t block_seed(Order& order) { return order.drawn() ? order.random() | 1 : 0; }

// Each block starts when the one before it has ended.
void run_in_turn(const Grid& grid, GridTokens& tokens, Crews& crews, Order& order) {
  for (const std::uint64_t number : block_order(grid.blocks, order))
    Block(grid, tokens, crews, index_of(number, grid.blocks), block_seed(order)).run();
}

// The same for ThreadSanitizer: a thread of the system for each block, lest the shared variables of
// one be taken for those of another, and the last blocks are kept, lest their threads be taken for
// those of the next.
void run_in_turn_observed(const Grid& grid, GridTokens& tokens, Crews& crews, Order& order) {
  std::deque<std::unique_ptr<Block>> ended;
  for (const std::uint64_t number : block_order(grid.blocks, order)) {
    Carrier().run([&, seed = block_seed(order)] {
      const Overlooked overlooked;
      ended.push_back(
          std::make_unique<Block>(grid, tokens, crews, index_of(number, grid.blocks), seed));
      ended.back()->run();
    });
    const std::uint64_t blocks = ended.size();
    if (blocks > 1 && blocks * count(grid.threads) > kObservedAfterEnd) ended.pop_front();
  }
}

// All blocks at once: each runs until it has ended or waits for the others.
void run_together(const Grid& grid, GridTokens& tokens, Crews& crews, Order& order) {
  struct Resident {
    Carrier carrier;
    std::unique_ptr<Block> block;
  };
  std::vector<Resident> residents(count(grid.blocks));
  std::size_t ended = 0;
  while (ended == 0) {
    std::uint32_t clock = 0;
    for (const Resident& resident : residents)
      if (resident.block != nullptr)
        clock = std::max(clock, resident.block->clock(Thread::State::kAtGrid));
    for (const std::uint64_t number : block_order(grid.blocks, order)) {
      Resident& self = residents[number];
      self.carrier.run([&, seed = block_seed(order)] {
        const Overlooked overlooked;
        if (self.block == nullptr)
          self.block =
              std::make_unique<Block>(grid, tokens, crews, index_of(number, grid.blocks), seed);
        else
          self.block->leave_grid_barrier(clock);
        ended += self.block->run();
      });
    }
    if (ended != 0 && ended != residents.size())
      throw Fault{std::to_string(ended) + " of " + std::to_string(residents.size()) +
                  " blocks have ended while the others wait in sync() of the grid"};
  }
}

}  // namespace

void run_grid(const Grid& grid, std::uint64_t seed) {
  const std::uint64_t threads = count(grid.threads);
  const std::uint64_t blocks = count(grid.blocks);
  if (kThreadSanitizer && threads * (grid.cooperative ? blocks : 1) > kMostObserved)
    throw Fault{std::to_string(blocks) + " blocks of " + std::to_string(threads) +
                " threads at once are too many for ThreadSanitizer; the most is " +
                std::to_string(kMostObserved) + " threads"};
  static thread_local Crews crews;
  struct AcquiredAtEnd : GridTokens {
    ~AcquiredAtEnd() { acquire(&end); }
  };
  const auto tokens = std::make_unique<AcquiredAtEnd>();
  const Overlooked overlooked;
  Order order(seed);
  if (grid.cooperative)
    run_together(grid, *tokens, crews, order);
  else if (kThreadSanitizer)
    run_in_turn_observed(grid, *tokens, crews, order);
  else
    run_in_turn(grid, *tokens, crews, order);
}

}  // namespace simt
