// A block: its threads as fibres, run one at a time by the thread of the system that owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include "engine/crew.hpp"
#include "engine/fault.hpp"
#include "engine/fibre.hpp"
#include "engine/order.hpp"
#include "engine/warp.hpp"
#include "simt/barriers.hpp"

namespace simt {

struct Grid {
  dim3 blocks;
  dim3 threads;  // of a block
  std::size_t dynamic_bytes;
  bool cooperative;
  dim3 cluster;  // in blocks
  std::function<void()> thread;
};

// What the blocks of a grid share.
struct GridState {
  // Programmatic dependent launch: the grid before this one has not ended.
  bool dependency_pending = false;
  // ThreadSanitizer's tokens.
  char dependency = 0;
  char barrier[2] = {};
  char end = 0;
};

class Block;

// What the blocks of a cluster share.
struct Cluster {
  std::vector<Block*> blocks;  // by their ranks
  char barrier[2] = {};        // ThreadSanitizer's tokens
};

struct Thread {
  enum class State : std::uint8_t {
    kReady,
    kAtBarrier,
    kInWarp,
    kAtGrid,
    kAtCluster,
    kAtDependency,
    kExited
  };

  uint3 index{};
  Block* block = nullptr;
  int number = 0;  // in the block
  State state = State::kReady;
  const char* call = nullptr;  // what it waits in, at a barrier
  std::source_location where;
  std::uint32_t clock = 0;  // see simt/latency.hpp
  std::optional<Fibre> fibre;
};

class Block {
 public:
  // `seed` draws the order of the threads.
  Block(const Grid& grid, GridState& state, std::shared_ptr<Cluster> cluster, unsigned rank,
        const uint3& index, std::uint64_t seed);
  ~Block();

  enum class Stop : std::uint8_t {
    kEnded,
    kAtGrid,        // all threads that are left wait for the grid
    kAtCluster,     // or for the cluster
    kAtDependency,  // nothing can run before the dependency of the grid is complete
  };
  Stop run();
  void leave_dependency();
  // `clock`: of the latest thread of the cluster.
  void leave_cluster_barrier(std::uint32_t clock);
  // The latest clock of the threads in this state.
  std::uint32_t clock(Thread::State state) const;
  // `clock`: of the latest thread of the grid.
  void leave_grid_barrier(std::uint32_t clock);

  // For the thread that runs.
  static Thread& current();
  Votes barrier(Thread& self, const char* call, bool predicate, const std::source_location& where);
  Meeting meet(Thread& self, const Arrival& arrival);
  void grid_barrier(Thread& self, const std::source_location& where);
  void cluster_barrier(Thread& self, const std::source_location& where);
  std::byte* map_shared(Thread& self, std::byte* address, unsigned rank);
  unsigned cluster_rank() const { return rank_; }
  void await_dependency(Thread& self, const std::source_location& where);
  void let_others_run(Thread& self);
  void sometimes_let_others_run(Thread& self);
  void fence();
  void publish(void* address);
  [[noreturn]] void fail(Thread& self, std::string message);
  const Grid& grid() const { return grid_; }
  std::byte* dynamic_shared() const { return dynamic_shared_.get(); }
  // Whether an address is in the block's shared memory.
  bool is_shared(const void* address) const;

 private:
  std::byte* find_shared(std::byte* address, unsigned rank) const;
  std::string why_not_mapped(unsigned rank) const;
  static Thread& begin_thread();
  static void thread_entry();
  void make_ready(Thread& thread);
  Thread* take_ready();
  void suspend(Thread& self);
  void arrive(Thread& self, const char* call, bool predicate, const std::source_location& where);
  void finish_barrier();
  void wake(const Warp& warp, unsigned lanes);
  void exited(Thread& thread);
  std::string who_waits() const;
  std::string name() const;
  static int lane(const Thread& thread) { return thread.number % kWarp; }
  Warp& warp(const Thread& thread) { return warps_[thread.number / kWarp]; }

  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };

  const Grid& grid_;
  GridState& state_;
  std::shared_ptr<Cluster> cluster_;
  unsigned rank_;
  uint3 index_;
  Order order_;
  std::unique_ptr<Crew> crew_;
  std::unique_ptr<std::byte, FreeDeleter> dynamic_shared_;
  const std::vector<std::span<std::byte>>* variables_ = nullptr;  // of the thread that owns it
  std::deque<Thread> threads_;
  std::vector<Warp> warps_;
  std::deque<Thread*> ready_;
  std::optional<Fibre> scheduler_;
  std::optional<Fault> fault_;
  int alive_;
  int at_grid_ = 0;
  int at_cluster_ = 0;
  int at_dependency_ = 0;

  // The barrier of the block.
  int at_barrier_ = 0;
  const Thread* first_at_barrier_ = nullptr;
  int in_favour_ = 0;
  std::uint32_t barrier_clock_ = 0;
  Votes votes_{};
  unsigned barriers_ = 0;
  char start_token_ = 0;
  char barrier_tokens_[2] = {};
  unsigned grid_barriers_ = 0;
  unsigned cluster_barriers_ = 0;

  // What the block's threads have fenced, as known to one who only publishes it.
  char fence_token_ = 0;
  const Observer* publisher_ = nullptr;
};

}  // namespace simt
