// Part of mpi.hpp: one rank's end of a group over MPI.
#ifndef SYNCNORM_MPI_LINK_HPP_
#define SYNCNORM_MPI_LINK_HPP_

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "errors.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {
namespace detail {

#if !defined(__cpp_exceptions)
#error "syncnorm/mpi.hpp needs exceptions; without them pass a callback to Communicator"
#endif
static_assert(MPI_VERSION >= 3, "syncnorm/mpi.hpp needs MPI 3.0 or newer");

// One rank's end of a group over MPI. MPI leaves open what happens where ranks sum vectors of
// different lengths: wrong sums, a hang, a segmentation fault. So every call begins with a frame of
// one length, with a mark of the call, and of a vector as much as fits. What does not fit follows
// when all marks agree.
class MpiLink {
 public:
  using Seconds = std::chrono::duration<double>;

  // Collective.
  static std::shared_ptr<MpiLink> duplicate(MPI_Comm comm, Seconds timeout) {
    std::shared_ptr<MpiLink> link(new MpiLink(comm, timeout));
    link->name_ = "mpi_communicator";
    MPI_Request all_are_here = MPI_REQUEST_NULL;
    link->require(MPI_Ibarrier(comm, &all_are_here), "MPI_Ibarrier");
    link->wait(all_are_here);
    link->require(MPI_Comm_dup(comm, &link->comm_), "MPI_Comm_dup");
    link->report_errors();
    return link;
  }

  // MPI_Comm_free is collective, but meant to be local: "a debugging version might synchronize".
  ~MpiLink() {
    if (comm_ == MPI_COMM_NULL || is_finalized() || !is_callable_here()) return;
    if (failed_ || aborted_ || std::uncaught_exceptions() > exceptions_when_made_) {
      give_up();  // its calls are pending: not to be freed
    } else {
      MPI_Comm_free(&comm_);
    }
  }
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }

  void sum(const double* src, double* dst, std::int64_t count) {
    call("sum of " + std::to_string(count) + " values", [&] {
      const std::int64_t first = std::min(count, kRoom);
      check_length(count - first);
      std::copy_n(src, first, frame_->sent.begin() + kHead);
      agree(kSum + count);
      std::copy_n(frame_->received.begin() + kHead, first, dst);
      if (count > first) sum_rest(src + first, dst + first, count - first);
    });
  }

  // As MPI_Comm_split; nullptr where color < 0.
  std::shared_ptr<MpiLink> split(int color, int key) {
    std::shared_ptr<MpiLink> link;
    call("split", [&] {
      agree(kSplit);
      MPI_Comm part = MPI_COMM_NULL;
      require(MPI_Comm_split(comm_, color < 0 ? MPI_UNDEFINED : color, key, &part),
              "MPI_Comm_split");
      if (part == MPI_COMM_NULL) return;
      link.reset(new MpiLink(part, timeout_));
      link->comm_ = part;
      link->report_errors();
    });
    return link;
  }

  // From any thread. The other ranks learn from the call that this ends, or when the link goes.
  void abort() noexcept { aborted_ = true; }

 private:
  // In float64 values: just below the 4 KiB that Open MPI sends at once through shared memory. The
  // wires of a forward pass with up to 246 channels fit.
  static constexpr std::int64_t kFrame = 500;
  enum Head { kMark, kSquare, kGone, kWho, kHead };
  static constexpr std::int64_t kRoom = kFrame - kHead;
  // The mark of a sum is kSum + count. The sum of their squares is exact as long as
  // size * mark^2 < 2^53.
  static constexpr std::int64_t kSplit = 1;
  static constexpr std::int64_t kSum = 2;

  static constexpr int kTightTests = 20;  // about what it takes where all have come, with a core
  static constexpr Seconds kYielding{0.0005};  // below this a sleep would take longer than it says
  static constexpr Seconds kLongestSleep{0.001};

  struct Exchange {
    explicit Exchange(std::int64_t count)
        : sent(static_cast<std::size_t>(count)), received(sent.size()) {}
    std::vector<double> sent, received;
  };

  MpiLink(MPI_Comm peers, Seconds timeout) : timeout_(timeout) {
    require(MPI_Comm_rank(peers, &rank_), "MPI_Comm_rank");
    require(MPI_Comm_size(peers, &size_), "MPI_Comm_size");
  }

  template <class Body>
  void call(const std::string& name, Body&& body) {
    ++calls_;
    name_ = "call " + std::to_string(calls_) + " (" + name + ")";
    try {
      check_usable();
      body();
    } catch (...) {
      failed_ = true;
      give_up();
      throw;
    }
  }

  // Sends the frame. Throws unless all ranks are in the same call.
  void agree(std::int64_t call) {
    const auto mark = static_cast<double>(call);
    frame_->sent[kMark] = mark;
    frame_->sent[kSquare] = mark * mark;
    all_reduce(frame_);
    const std::vector<double>& totals = frame_->received;
    const bool same = totals[kMark] == size_ * mark && totals[kSquare] == size_ * mark * mark;
    const auto gone = static_cast<int>(totals[kGone]);
    can_tell_ = same && gone == 0;  // all ranks see these totals
    if (gone > 0) {
      throw RankLost((gone == 1 ? "rank " + std::to_string(static_cast<int>(totals[kWho]) - 1)
                                : std::to_string(gone) + " ranks") +
                     " of " + std::to_string(size_) +
                     " gave up, by an abort or an error there; this is " + here());
    }
    if (!same) {
      throw Desync("the " + std::to_string(size_) + " ranks are not in the same call: this is " +
                   here() +
                   ", another rank sums another number of values, or one splits the group. Usual "
                   "causes: another number of channels, a layer that runs on some ranks only");
    }
  }

  void sum_rest(const double* src, double* dst, std::int64_t count) {
    can_tell_ = false;  // what the others wait for is no frame
    auto rest = std::make_unique<Exchange>(count);
    std::copy_n(src, count, rest->sent.begin());
    all_reduce(rest);
    std::copy_n(rest->received.begin(), count, dst);
    can_tell_ = true;
  }

  // MPI cannot take a request back. Where this throws, the buffers are left to it for ever.
  void all_reduce(std::unique_ptr<Exchange>& exchange) {
    Exchange* const pending = exchange.release();
    MPI_Request request = MPI_REQUEST_NULL;
    require(start(*pending, &request), "MPI_Iallreduce");
    wait(request);
    exchange.reset(pending);
  }

  int start(Exchange& exchange, MPI_Request* request) noexcept {
    return MPI_Iallreduce(exchange.sent.data(), exchange.received.data(),
                          static_cast<int>(exchange.sent.size()), MPI_DOUBLE, MPI_SUM, comm_,
                          request);
  }

  // Tests in a tight loop at first, then gives way to other processes, then sleeps for a tenth of
  // the time that it has waited.
  void wait(MPI_Request request) {
    const auto begin = std::chrono::steady_clock::now();
    for (int tests = 1;; ++tests) {
      int done = 0;
      require(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done) return;
      if (tests < kTightTests) continue;
      const Seconds waited = std::chrono::steady_clock::now() - begin;
      check_patience(waited);
      if (waited < kYielding) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::min(waited / 10, kLongestSleep));
      }
    }
  }

  void check_patience(Seconds waited) const {
    if (aborted_) throw InternalError(here() + " was aborted while it waited");
    if (waited < timeout_) return;
    char seconds[32];
    std::snprintf(seconds, sizeof(seconds), "%g s", timeout_.count());
    throw Timeout(here() + " waited " + seconds +
                  ", and not all ranks came; MPI does not tell which. A rank has thrown or makes "
                  "fewer calls, or pauses for longer: see `timeout` of mpi_communicator");
  }

  void check_length(std::int64_t rest) const {
    if (rest <= INT_MAX) return;
    throw Unsupported(here() + ": too many values, expected at most " +
                      std::to_string(kRoom + INT_MAX) + ", as MPI counts them in an int");
  }

  void check_usable() const {
    if (is_finalized()) {
      throw InvalidArgument(here() + ": MPI was finalized, expected no call after that");
    }
    if (is_callable_here()) return;
    throw InvalidArgument(here() +
                          ": MPI was initialized for calls from one thread, and this is another. "
                          "Call from that thread, or ask MPI_Init_thread for MPI_THREAD_SERIALIZED "
                          "or MPI_THREAD_MULTIPLE");
  }

  static bool is_finalized() noexcept {
    int finalized = 0;
    MPI_Finalized(&finalized);
    return finalized != 0;
  }

  static bool is_callable_here() noexcept {
    int level = MPI_THREAD_SINGLE;
    int is_main = 0;
    MPI_Query_thread(&level);
    MPI_Is_thread_main(&is_main);
    return level >= MPI_THREAD_SERIALIZED || is_main != 0;
  }

  // Sends, in place of the next call's frame, that there will be none.
  void give_up() noexcept {
    if (!can_tell_ || is_finalized() || !is_callable_here()) return;
    can_tell_ = false;
    Exchange& last = *last_.release();
    last.sent[kGone] = 1;
    last.sent[kWho] = rank_ + 1;
    MPI_Request nobody_waits = MPI_REQUEST_NULL;
    start(last, &nobody_waits);
  }

  void report_errors() {
    require(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }

  void require(int code, const char* function) {
    if (code == MPI_SUCCESS) return;
    can_tell_ = false;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw InternalError(here() + ": " + function + " failed: " + text);
  }

  std::string here() const {
    return "rank " + std::to_string(rank_) + " of " + std::to_string(size_) + " in " + name_ +
           " over MPI";
  }

  const Seconds timeout_;
  const int exceptions_when_made_ = std::uncaught_exceptions();
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<Exchange> frame_ = std::make_unique<Exchange>(kFrame);
  std::unique_ptr<Exchange> last_ = std::make_unique<Exchange>(kFrame);
  std::int64_t calls_ = 0;
  std::string name_;
  bool can_tell_ = true;  // the others wait for a frame of this rank, and MPI is sound
  bool failed_ = false;
  std::atomic<bool> aborted_{false};
};

}  // namespace detail
}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_MPI_LINK_HPP_
