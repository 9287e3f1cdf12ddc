#include "engine/block.hpp"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "engine/latency.hpp"
#include "engine/shared_variables.hpp"
#include "engine/text.hpp"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace simt {
namespace {

constinit thread_local Thread* running = nullptr;

// Aligned as a block's memory is on a device, and not one byte longer than asked.
std::byte* garbage(std::size_t bytes) {
  constexpr std::size_t kAlignment = 1024;
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, kGarbage, bytes);
  return static_cast<std::byte*>(memory);
}

}  // namespace

void Block::FreeDeleter::operator()(std::byte* p) const { std::free(p); }

Block::Block(const Grid& grid, GridState& state, std::shared_ptr<Cluster> cluster, unsigned rank,
             const uint3& index, std::uint64_t seed)
    : grid_(grid),
      state_(state),
      cluster_(std::move(cluster)),
      rank_(rank),
      index_(index),
      order_(seed),
      crew_(Crews::get().take(grid.threads.x * grid.threads.y * grid.threads.z)),
      dynamic_shared_(garbage(grid.dynamic_bytes)),
      alive_(static_cast<int>(grid.threads.x * grid.threads.y * grid.threads.z)) {
  fill_shared_variables();
  variables_ = &shared_variables();
  cluster_->blocks[rank_] = this;
  const dim3& size = grid.threads;
  for (unsigned i = 0; std::cmp_less(i, alive_); ++i) {
    Thread& thread = threads_.emplace_back();
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.block = this;
    thread.number = static_cast<int>(i);
    thread.fibre.emplace(crew_->stack(i), Crew::stack_size(), thread_entry, crew_->observer(i));
    ready_.push_back(&thread);
  }
  for (int first = 0; first < alive_; first += kWarp)
    warps_.emplace_back(first, std::min(kWarp, alive_ - first));
  release(&start_token_);
}

Block::~Block() {
  cluster_->blocks[rank_] = nullptr;
  if (alive_ == 0) Crews::get().give(std::move(crew_));
  for (std::size_t i = 0; kThreadSanitizer && crew_ != nullptr && i < threads_.size(); ++i)
    if (threads_[i].state != Thread::State::kExited)  // the block has failed
      crew_->observer(i)->observe([this] { release(&state_.end); });
}

Thread& Block::current() {
  if (running != nullptr) return *running;
  std::fputs("simt: a device function was called outside a kernel\n", stderr);
  std::abort();
}

// ---------------------------------------------------------------------------------- scheduling

Thread& Block::begin_thread() {
  const Overlooked overlooked;  // until it knows what the block's maker knew
  Thread& self = current();
  acquire(&self.block->start_token_);
  return self;
}

// Not observed, because it never returns.
SIMT_NOT_OBSERVED void Block::thread_entry() {
  Thread& self = begin_thread();
  Block& block = *self.block;
  self.fibre->entered(*block.scheduler_);
  block.grid_.thread();
  release(&block.state_.end);
  {
    const Overlooked overlooked;
    self.state = Thread::State::kExited;
  }
  block.scheduler_->switch_from(*self.fibre, true);
}

Block::Stop Block::run() {
  scheduler_.emplace();
  blockIdx = index_;
  blockDim = grid_.threads;
  gridDim = grid_.blocks;
  while (Thread* thread = take_ready()) {
    running = thread;
    threadIdx = thread->index;
    thread->fibre->switch_from(*scheduler_);
    running = nullptr;
    if (crew_->overflowed(static_cast<std::size_t>(thread->number)))
      fault_ = Fault{"thread " + std::to_string(thread->number) + " has used up its stack of " +
                     std::to_string(Crew::stack_size()) + " bytes"};
    if (!fault_ && thread->state == Thread::State::kExited) exited(*thread);
    if (fault_) throw Fault{name() + ": " + fault_->message};
  }
  if (at_dependency_ > 0) return Stop::kAtDependency;
  if (alive_ == 0) {
    record_clock(clock(Thread::State::kExited));
    if (cluster_->blocks.size() > 1) {  // others may still read it, and must not
      std::memset(dynamic_shared_.get(), kGarbage, grid_.dynamic_bytes);
      fill_shared_variables();
    }
    return Stop::kEnded;
  }
  if (alive_ == at_grid_) return Stop::kAtGrid;
  if (alive_ == at_cluster_) return Stop::kAtCluster;
  throw Fault{name() + ": deadlock: " + who_waits()};
}

Thread* Block::take_ready() {
  if (ready_.empty()) return nullptr;
  std::swap(ready_.front(), ready_[order_.next(ready_.size())]);
  Thread* thread = ready_.front();
  ready_.pop_front();
  return thread;
}

void Block::make_ready(Thread& thread) {
  thread.state = Thread::State::kReady;
  ready_.push_back(&thread);
}

void Block::suspend(Thread& self) { scheduler_->switch_from(*self.fibre); }

void Block::let_others_run(Thread& self) {
  {
    const Overlooked overlooked;
    make_ready(self);
  }
  suspend(self);
}

void Block::sometimes_let_others_run(Thread& self) {
  bool now = false;
  {
    const Overlooked overlooked;
    now = order_.once_in(4);
  }
  if (now) let_others_run(self);
}

bool Block::is_shared(const void* address) const {
  const Overlooked overlooked;
  const std::less<> before;
  const std::byte* const dynamic = dynamic_shared_.get();
  return (!before(address, dynamic) && before(address, dynamic + grid_.dynamic_bytes)) ||
         is_shared_variable(address);
}

void Block::exited(Thread& thread) {
  --alive_;
  Warp& own = warp(thread);
  try {
    wake(own, own.exit(lane(thread)));
  } catch (Fault& fault) {
    fault_ = std::move(fault);
  }
  if (alive_ > 0 && at_barrier_ == alive_) finish_barrier();
}

void Block::fail(Thread& self, std::string message) {
  {
    const Overlooked overlooked;
    fault_ = Fault{std::move(message)};  // this stack is never unwound
  }
  suspend(self);
  std::abort();  // a block that failed is not resumed
}

std::string Block::name() const {
  return "block (" + std::to_string(index_.x) + "," + std::to_string(index_.y) + "," +
         std::to_string(index_.z) + ")";
}

std::string Block::who_waits() const {
  std::map<std::string, std::vector<int>> places;
  for (const Thread& thread : threads_) {
    std::string place;
    if (thread.state == Thread::State::kExited) {
      place = "exited";
    } else if (thread.state == Thread::State::kInWarp) {
      const Arrival& a = warps_[thread.number / kWarp].arrival(lane(thread));
      place = "in " + describe(a.call, a.where) + " with mask " + hex(a.mask);
    } else {
      place = "in " + describe(thread.call, thread.where);
    }
    places[place].push_back(thread.number);
  }
  std::string text;
  for (const auto& [place, numbers] : places)
    text += (text.empty() ? "" : "; ") + describe_threads(numbers) + " " + place;
  return text;
}

// ------------------------------------------------------------------------------------ barriers

Votes Block::barrier(Thread& self, const char* call, bool predicate,
                     const std::source_location& where) {
  char* const token = &barrier_tokens_[barriers_ % 2];
  release(token);
  arrive(self, call, predicate, where);
  suspend(self);
  acquire(token);
  return votes_;
}

void Block::arrive(Thread& self, const char* call, bool predicate,
                   const std::source_location& where) {
  const Overlooked overlooked;
  self.call = call;
  self.where = where;
  self.state = Thread::State::kAtBarrier;
  if (at_barrier_++ == 0) first_at_barrier_ = &self;
  const Thread& first = *first_at_barrier_;
  in_favour_ += predicate;
  barrier_clock_ = std::max(barrier_clock_, self.clock);
  if (!same_place(call, where, first.call, first.where))
    fault_ = Fault{"threads of the block wait at different barriers: thread " +
                   std::to_string(first.number) + " in " + describe(first.call, first.where) +
                   ", thread " + std::to_string(self.number) + " in " + describe(call, where)};
  else if (at_barrier_ == alive_)
    finish_barrier();
}

void Block::finish_barrier() {
  votes_ = {in_favour_, at_barrier_};
  at_barrier_ = in_favour_ = 0;
  ++barriers_;
  for (Thread& thread : threads_)
    if (thread.state == Thread::State::kAtBarrier) {
      thread.clock = barrier_clock_;
      make_ready(thread);
    }
  barrier_clock_ = 0;
}

Meeting Block::meet(Thread& self, const Arrival& arrival) {
  Warp& own = warp(self);
  const bool orders = std::strcmp(arrival.call, "__syncwarp") == 0;  // shuffles order no memory
  void* const token = own.token(arrival.mask);
  if (orders) release(token);
  {
    const Overlooked overlooked;
    self.state = Thread::State::kInWarp;
    try {
      wake(own, own.arrive(lane(self), arrival));
    } catch (Fault& fault) {
      fault_ = std::move(fault);
    }
  }
  suspend(self);
  if (orders) acquire(token);
  return own.outcome(lane(self));
}

void Block::wake(const Warp& warp, unsigned lanes) {
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = std::countr_zero(lanes);
    Thread& thread = threads_[static_cast<std::size_t>(warp.first() + lane)];
    thread.clock = warp.clock(lane);
    make_ready(thread);
  }
}

void Block::grid_barrier(Thread& self, const std::source_location& where) {
  if (!grid_.cooperative)
    fail(self, describe("sync() of the grid", where) + " in a launch that is not cooperative");
  char* const token = &state_.barrier[grid_barriers_ % 2];
  release(token);
  {
    const Overlooked overlooked;
    self.call = "sync() of the grid";
    self.where = where;
    self.state = Thread::State::kAtGrid;
    ++at_grid_;
  }
  suspend(self);
  acquire(token);
}

std::uint32_t Block::clock(Thread::State state) const {
  std::uint32_t latest = 0;
  for (const Thread& thread : threads_)
    if (thread.state == state) latest = std::max(latest, thread.clock);
  return latest;
}

void Block::leave_grid_barrier(std::uint32_t clock) {
  at_grid_ = 0;
  ++grid_barriers_;
  for (Thread& thread : threads_)
    if (thread.state == Thread::State::kAtGrid) {
      thread.clock = clock;
      make_ready(thread);
    }
}

// ------------------------------------------------------------------------------------ clusters

void Block::cluster_barrier(Thread& self, const std::source_location& where) {
  constexpr const char* kCall = "sync() of the cluster";
  if (cluster_->blocks.size() == 1) {
    barrier(self, kCall, false, where);
    return;
  }
  char* const token = &cluster_->barrier[cluster_barriers_ % 2];
  release(token);
  {
    const Overlooked overlooked;
    self.call = kCall;
    self.where = where;
    self.state = Thread::State::kAtCluster;
    ++at_cluster_;
  }
  suspend(self);
  acquire(token);
}

void Block::leave_cluster_barrier(std::uint32_t clock) {
  at_cluster_ = 0;
  ++cluster_barriers_;
  for (Thread& thread : threads_)
    if (thread.state == Thread::State::kAtCluster) {
      thread.clock = clock;
      make_ready(thread);
    }
}

std::byte* Block::map_shared(Thread& self, std::byte* address, unsigned rank) {
  {
    const Overlooked overlooked;
    if (std::byte* const found = find_shared(address, rank)) return found;
  }
  fail(self, why_not_mapped(rank));
}

std::string Block::why_not_mapped(unsigned rank) const {
  const Overlooked overlooked;
  const auto& blocks = cluster_->blocks;
  const std::string call = "map_shared_rank to block " + std::to_string(rank) + " of a cluster";
  if (rank >= blocks.size()) return call + " of " + std::to_string(blocks.size());
  if (blocks[rank]->alive_ == 0) return call + ", which has ended";
  return call + ": the address is not in shared memory";
}

std::byte* Block::find_shared(std::byte* address, unsigned rank) const {
  if (rank >= cluster_->blocks.size()) return nullptr;
  const Block& other = *cluster_->blocks[rank];
  if (other.alive_ == 0) return nullptr;
  const std::less<> before;
  const auto offset = [&](std::byte* begin, std::size_t size) {
    return !before(address, begin) && before(address, begin + size) ? address - begin : -1;
  };
  if (const auto at = offset(dynamic_shared_.get(), grid_.dynamic_bytes); at >= 0)
    return other.dynamic_shared_.get() + at;
  for (std::size_t i = 0; i < variables_->size(); ++i)
    if (const auto at = offset((*variables_)[i].data(), (*variables_)[i].size()); at >= 0)
      return (*other.variables_)[i].data() + at;
  return nullptr;
}

// ------------------------------------------------------------------ programmatic dependent launch

void Block::await_dependency(Thread& self, const std::source_location& where) {
  {
    const Overlooked overlooked;
    if (!state_.dependency_pending) return;
    self.call = "cudaGridDependencySynchronize";
    self.where = where;
    self.state = Thread::State::kAtDependency;
    ++at_dependency_;
  }
  suspend(self);
  acquire(&state_.dependency);
}

void Block::leave_dependency() {
  release(&state_.dependency);
  at_dependency_ = 0;
  for (Thread& thread : threads_)
    if (thread.state == Thread::State::kAtDependency) make_ready(thread);
}

// -------------------------------------------------------------------------------------- fences

void Block::fence() {
  release(&fence_token_);
  const Overlooked overlooked;
  if (kThreadSanitizer) publisher_ = &crew_->publisher();
}

void Block::publish(void* address) {
  if (publisher_ == nullptr) return;
  publisher_->observe([&] {
    acquire(&fence_token_);
    release(address);
  });
}

}  // namespace simt
