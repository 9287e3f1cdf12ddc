#include "comm/rendezvous.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "comm/interrupt.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace syncnorm {
namespace {

// A rank that is one sum ahead waits a microsecond or so: spinning for about 20 of them catches
// that, and costs less than the 50 of going to sleep and being woken.
constexpr int kSpins = 1000;
// With fewer cores than ranks a spinning rank keeps away the one it waits for: it steps aside
// instead.
constexpr int kYields = 20;

void relax() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // about as long as x86's pause; "yield" does nothing on most cores
#endif
}

std::string describe(const Call& call) {
  return call.operation == Operation::kSplit ? "split" : concat("sum of ", call.count, " values");
}

std::string list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(ranks[i]);
  }
  return text;
}

}  // namespace

Rendezvous::Rendezvous(int size, double timeout_s)
    : timeout_s_(timeout_s),
      enough_cores_(static_cast<unsigned>(size) <= std::thread::hardware_concurrency()),
      slots_(static_cast<std::size_t>(size)) {}

void Rendezvous::meet(int rank, std::uint64_t number, const Call& call) {
  poll();  // after a failure the slots belong to those who report it
  slot(rank).calls[number & 1] = call;
  arrive(rank, number);
  await(rank, number, call);
  check_agreement(number);
}

void Rendezvous::arrive(int rank, std::uint64_t number) {
  std::uint64_t state = state_.load();
  do {
    if (state & kFailed) poll();
  } while (!state_.compare_exchange_weak(state, state + kArrival));
  slot(rank).arrived.store(number, std::memory_order_release);
  if (complete(state + kArrival, number) && sleepers_.load() > 0) {
    // A sleeper is before its last look at state_, which is under the lock, or inside the wait.
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
}

void Rendezvous::await(int rank, std::uint64_t number, const Call& call) {
  if (!settles_soon(number)) sleep(rank, number, call);
  if (!complete(state_.load(), number)) poll();
}

void Rendezvous::sleep(int rank, std::uint64_t number, const Call& call) {
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(timeout_s_));
  InterruptCheck interrupt;
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  while (!wake_.wait_until(lock, interrupt.wake_by(deadline), [&] { return settled(number); })) {
    lock.unlock();
    const bool interrupted = interrupt.interrupted();
    lock.lock();
    if (interrupted) {
      fail_interrupted(rank, number, call);
    } else if (Clock::now() >= deadline) {
      time_out(rank, number, call);
    }
  }
  sleepers_.fetch_sub(1);
}

bool Rendezvous::settled(std::uint64_t number) const noexcept {
  const std::uint64_t state = state_.load();
  return (state & kFailed) || complete(state, number);
}

bool Rendezvous::settles_soon(std::uint64_t number) const noexcept {
  for (int i = 0; i < (enough_cores_ ? kSpins : 0); ++i) {
    if (settled(number)) return true;
    relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (settled(number)) return true;
    std::this_thread::yield();
  }
  return settled(number);
}

// Called under mutex_. Sets the failed bit unless the meeting is settled, so that a meeting keeps
// its one outcome; then `state` is what was there before.
bool Rendezvous::claim_failure(std::uint64_t number, std::uint64_t& state) noexcept {
  state = state_.load();
  do {
    if ((state & kFailed) || complete(state, number)) return false;
  } while (!state_.compare_exchange_weak(state, state | kFailed));
  return true;
}

void Rendezvous::time_out(int rank, std::uint64_t number, const Call& call) {
  std::uint64_t state = 0;
  if (!claim_failure(number, state)) return;
  reason_.emplace(
      SYNCNORM_TIMEOUT,
      concat("rank ", rank, " waited ", timeout_s_, " s in call ", number, " (", describe(call),
             ") of a group of ", size(), " threads; missing: ", missing(number, state),
             ". Every rank must make the same calls in the same order; if a rank may "
             "honestly take longer, create the group with a larger timeout"));
  wake_.notify_all();
}

void Rendezvous::fail_interrupted(int rank, std::uint64_t number, const Call& call) {
  std::uint64_t state = 0;
  if (!claim_failure(number, state)) return;
  reason_.emplace(SYNCNORM_INTERNAL,
                  concat("rank ", rank, " was interrupted while it waited in call ", number, " (",
                         describe(call), ") of a group of ", size(), " threads; missing: ",
                         missing(number, state), ". Create a new group to continue"));
  wake_.notify_all();
}

std::string Rendezvous::missing(std::uint64_t number, std::uint64_t state) const {
  const std::uint64_t expected = number * slots_.size() - state / kArrival;
  std::vector<int> ranks;
  // A rank that was counted is about to say who it is.
  for (;; std::this_thread::yield(), ranks.clear()) {
    for (int r = 0; r < size(); ++r) {
      if (slot(r).arrived.load(std::memory_order_acquire) < number) ranks.push_back(r);
    }
    if (ranks.size() == expected) return list(ranks);
  }
}

// Every rank sees the same calls and comes to the same verdict.
void Rendezvous::check_agreement(std::uint64_t number) {
  const Call& first = brought(0, number);
  const bool agree = std::all_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    const Call& call = slot.calls[number & 1];
    return call.operation == first.operation && call.count == first.count;
  });
  if (agree) return;
  std::string who;
  for (int r = 0; r < size(); ++r) {
    who += concat(r ? ", " : "", "rank ", r, ": ", describe(brought(r, number)));
  }
  fail(SYNCNORM_DESYNC,
       concat("the ranks disagree in call ", number, " of their group of ", size(), " threads (",
              who, "). Every rank must make the same calls in the same order"));
  poll();
}

void Rendezvous::fail(syncnorm_status status, const std::string& message) {
  std::lock_guard lock(mutex_);
  if (state_.fetch_or(kFailed) & kFailed) return;
  reason_.emplace(status, message);
  wake_.notify_all();
}

void Rendezvous::poll() const {
  if (!(state_.load(std::memory_order_acquire) & kFailed)) return;
  std::lock_guard lock(mutex_);  // who set the bit holds it until the reason stands there
  throw *reason_;
}

}  // namespace syncnorm
