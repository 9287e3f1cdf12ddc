#include "comm/threads.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>

#include "comm/deadline.hpp"
#include "comm/exclusive_use.hpp"
#include "comm/rendezvous.hpp"

namespace syncnorm {
namespace {

constexpr std::int64_t kBlock = 512;  // values added at a time: dst stays in the first cache

class ThreadGroup {
 public:
  ThreadGroup(int size, double timeout_s)
      : meetings_(size, timeout_s), published_(static_cast<std::size_t>(size)) {}

  Rendezvous& meetings() noexcept { return meetings_; }

  // Two buffers in turn: when a rank fills one for meeting k+2, every rank has come to k+1 and so
  // is done with reading meeting k. One wait per sum is enough, and src is free when the sum
  // returns.
  std::vector<double>& published(int rank, std::uint64_t number) noexcept {
    return published_[static_cast<std::size_t>(rank)].buffers[number & 1];
  }

  // The group that the `size` ranks of `color` form in meeting `number`: made by the first that
  // asks.
  std::shared_ptr<ThreadGroup> part(std::uint64_t number, int color, int size) {
    std::lock_guard lock(mutex_);
    const auto [entry, first] = parts_.try_emplace({number, color});
    if (first) entry->second = {std::make_shared<ThreadGroup>(size, meetings_.timeout_s()), size};
    std::shared_ptr<ThreadGroup> group = entry->second.group;
    if (--entry->second.awaited == 0) parts_.erase(entry);
    return group;
  }

 private:
  struct alignas(64) Published {
    std::array<std::vector<double>, 2> buffers;
  };
  struct Part {
    std::shared_ptr<ThreadGroup> group;
    int awaited = 0;
  };

  Rendezvous meetings_;
  std::vector<Published> published_;
  std::mutex mutex_;
  std::map<std::pair<std::uint64_t, int>, Part> parts_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  ~ThreadCommunicator() override {
    group_->meetings().fail(
        SYNCNORM_RANK_LOST,
        concat("rank ", rank_, " left the group of ", size(), " threads after ", calls_,
               calls_ == 1 ? " call" : " calls",
               ": its communicator was destroyed. A rank must stay until the others "
               "have made their last call"));
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return group_->meetings().size(); }
  const char* kind() const noexcept override { return "threads"; }
  int device_memory() const noexcept override { return 1 << SYNCNORM_CPU; }

  void sum(const double* src, double* dst, std::int64_t count, syncnorm_device device,
           void* /*stream*/) override {
    if (device != SYNCNORM_CPU) {
      fail(SYNCNORM_UNSUPPORTED, "a threads communicator sums host memory only, got device ",
           static_cast<int>(device), ": use a communicator that takes device memory");
    }
    const ExclusiveUse use(in_use_, rank_);
    poll();
    if (count > 0) group_->published(rank_, calls_ + 1).assign(src, src + count);
    meet({Operation::kSum, count, 0, 0});
    add_up(dst, count);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const ExclusiveUse use(in_use_, rank_);
    meet({Operation::kSplit, 0, color, key});
    if (color < 0) return nullptr;
    const std::vector<int> members = members_of(color);
    const auto self = std::find(members.begin(), members.end(), rank_);
    return std::make_unique<ThreadCommunicator>(
        group_->part(calls_, color, static_cast<int>(members.size())),
        static_cast<int>(self - members.begin()));
  }

  void poll() override { group_->meetings().poll(); }

  void abort(const std::string& reason) noexcept override {
    group_->meetings().fail(SYNCNORM_INTERNAL, concat("rank ", rank_, " of ", size(),
                                                      " threads aborted the group: ", reason));
  }

 private:
  void meet(const Call& call) {
    group_->meetings().meet(rank_, calls_ + 1, call);
    ++calls_;
  }

  // In the order of the ranks, so that every rank gets the same bits.
  void add_up(double* dst, std::int64_t count) {
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
      const std::int64_t end = std::min(begin + kBlock, count);
      const double* first = group_->published(0, calls_).data();
      std::copy(first + begin, first + end, dst + begin);
      for (int r = 1; r < size(); ++r) {
        const double* values = group_->published(r, calls_).data();
        for (std::int64_t i = begin; i < end; ++i) dst[i] += values[i];
      }
    }
  }

  std::vector<int> members_of(int color) {
    const Rendezvous& meetings = group_->meetings();
    std::vector<int> members;
    for (int r = 0; r < size(); ++r) {
      if (meetings.brought(r, calls_).color == color) members.push_back(r);
    }
    std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
      return meetings.brought(a, calls_).key < meetings.brought(b, calls_).key;
    });
    return members;
  }

  const std::shared_ptr<ThreadGroup> group_;
  const int rank_;
  std::uint64_t calls_ = 0;  // meetings held
  std::atomic<bool> in_use_{false};
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_group(int n, double timeout_s) {
  check(n >= 1, "threads communicator: the number of ranks is ", n, ", expected at least 1");
  check(timeout_s > 0 && timeout_s <= kLongestTimeout, "threads communicator: the timeout is ",
        timeout_s, " s, expected more than 0 and at most ", kLongestTimeout);
  const auto group = std::make_shared<ThreadGroup>(n, timeout_s);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < n; ++r) ranks.push_back(std::make_unique<ThreadCommunicator>(group, r));
  return ranks;
}

}  // namespace syncnorm
