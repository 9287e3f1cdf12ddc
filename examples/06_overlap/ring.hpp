// The all-reduce of a trainer whose ranks are threads: a ring, in which each rank hands on to the
// next. The partial sums go round once, then the total. Nothing here knows syncnorm.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

// What one rank is handed, in order.
class Mailbox {
 public:
  using Values = std::vector<double>;

  void put(Values values) {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(values));
    arrived_.notify_one();
  }

  // Empty if nothing came in time.
  Values take() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!arrived_.wait_for(lock, kPatience, [this] { return !waiting_.empty(); })) return {};
    Values values = std::move(waiting_.front());
    waiting_.pop_front();
    return values;
  }

 private:
  static constexpr std::chrono::seconds kPatience{10};

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Values> waiting_;
};

// A rank's place in the ring.
class Ring {
 public:
  static std::vector<Ring> of(std::size_t ranks) {
    std::vector<std::shared_ptr<Mailbox>> boxes(ranks);
    for (auto& box : boxes) box = std::make_shared<Mailbox>();
    std::vector<Ring> places;
    for (std::size_t r = 0; r < ranks; ++r) {
      places.push_back(Ring(r, ranks, boxes[r], boxes[(r + 1) % ranks]));
    }
    return places;
  }

  int rank() const { return static_cast<int>(rank_); }
  int size() const { return static_cast<int>(size_); }

  // dst = the sum of src over the ranks, with the same bits on all. False if a rank did not come,
  // or came with another count.
  bool all_reduce(const double* src, double* dst, std::size_t count) {
    const bool is_last = rank_ + 1 == size_;
    Mailbox::Values values(src, src + count);
    if (rank_ > 0) {
      const Mailbox::Values before = mine_->take();
      if (before.size() != count) return false;
      std::transform(before.begin(), before.end(), src, values.begin(), std::plus<>());
    }
    if (size_ > 1) next_->put(values);  // the last rank's is the total
    if (!is_last) {
      values = mine_->take();
      if (values.size() != count) return false;
      if (rank_ + 2 < size_) next_->put(values);
    }
    std::copy(values.begin(), values.end(), dst);
    return true;
  }

  // The same, in a thread of its own.
  std::future<bool> start(const std::vector<double>& src, std::vector<double>& dst) {
    return std::async(std::launch::async,
                      [&, this] { return all_reduce(src.data(), dst.data(), src.size()); });
  }

 private:
  Ring(std::size_t rank, std::size_t size, std::shared_ptr<Mailbox> mine,
       std::shared_ptr<Mailbox> next)
      : rank_(rank), size_(size), mine_(std::move(mine)), next_(std::move(next)) {}

  std::size_t rank_, size_;
  std::shared_ptr<Mailbox> mine_, next_;
};
