// A grid: its blocks, one at a time, each on a thread of the system where it needs its own.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/block.hpp"
#include "engine/carrier.hpp"

namespace simt {

class GridRun {
 public:
  // `seed` draws the order of blocks and threads.
  GridRun(Grid grid, std::uint64_t seed);
  ~GridRun();
  GridRun(const GridRun&) = delete;
  GridRun& operator=(const GridRun&) = delete;

  // Programmatic dependent launch: before the grid's dependency is complete, runs as many blocks as
  // are resident together until each has ended or waits for the dependency. Throws Fault.
  void start_early(int resident_blocks);
  // The dependency is complete: returns when the grid has ended. Throws Fault. Any thread of the
  // system may call it.
  void finish();

 private:
  // A block on its own thread of the system: others run before it has ended.
  struct Resident {
    Carrier carrier;
    std::uint64_t number = 0;
    std::unique_ptr<Block> block = nullptr;
    Block::Stop stop = Block::Stop::kEnded;
  };

  std::unique_ptr<Block> make_block(std::uint64_t number, std::uint64_t seed);
  std::vector<std::uint64_t> draw_block_order();
  std::uint64_t draw_block_seed() { return order_.drawn() ? order_.random() | 1 : 0; }
  void run_resident(Resident& resident);
  void run_in_turn();
  void run_in_turn_observed();
  void run_together();

  Grid grid_;
  Order order_;
  std::vector<std::uint64_t> numbers_;  // of the blocks, in the order in which they start
  Crews crews_;
  std::unique_ptr<GridState> state_;
  std::deque<Resident> residents_;  // the first of numbers_
};

}  // namespace simt
