// A grid: its blocks, one at a time, each on a thread of the system where it needs its own.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
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
  struct Start {
    uint3 index;
    unsigned rank;  // in its cluster
  };
  // A block on its own thread of the system: others run before it has ended.
  struct Resident {
    Carrier carrier;
    std::shared_ptr<Cluster> cluster = nullptr;
    std::unique_ptr<Block> block = nullptr;
    bool ready = true;
    Block::Stop stop = Block::Stop::kEnded;
  };
  using Residents = std::deque<Resident>;

  std::uint64_t cluster_size() const;
  std::vector<Start> draw_starts();
  std::vector<std::uint64_t> draw_order(std::uint64_t count);
  std::uint64_t draw_block_seed() { return order_.drawn() ? order_.random() | 1 : 0; }
  std::unique_ptr<Block> make_block(const Start& start, std::shared_ptr<Cluster> cluster,
                                    std::uint64_t seed);
  // The blocks of whole clusters: all are there before the first one runs.
  void add_residents(Residents& residents, std::span<const Start> starts);
  void run_resident(Resident& resident);
  // Runs each until it has ended or waits for what is not among `residents`.
  void run_residents(Residents& residents);
  bool release_residents(Residents& residents);
  void run_in_turn(std::span<const Start> starts);
  void run_in_turn_observed(std::span<const Start> starts);
  void run_clusters_in_turn(std::span<const Start> starts);

  Grid grid_;
  Order order_;
  std::vector<Start> starts_;  // of the blocks, in their order; those of a cluster together
  std::unique_ptr<GridState> state_;
  Residents residents_;  // the first of starts_
};

}  // namespace simt
