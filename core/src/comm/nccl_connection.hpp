// One ncclComm_t: how NCCL is called with it, how it fails, how it ends.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "comm/deadline.hpp"
#include "comm/first_failure.hpp"
#include "comm/nccl_api.hpp"

namespace syncnorm::nccl {

// All 0 while it is not known.
struct Place {
  int rank = 0;
  int size = 0;
  int device = 0;
};

std::string text(const Place& place);  // "rank 1 of 4 (CUDA device 1)"

// NCCL is called by one thread at a time; what comes meanwhile waits (calls) or is put off (looks).
// The first failure stays. It ends an owned ncclComm_t by ncclCommAbort, from whichever thread met
// it, also while another one is inside NCCL: that is what releases a call that hangs. Whoever
// records the failure aborts, so it happens once.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // To a communicator that is still to be made, by a call that writes to slot(). It is owned.
  // end_timeout_s: for each step of its end, after which we go on without.
  Connection(const Api& api, const Place& place, double end_timeout_s)
      : api_(api), place_(place), owned_(true), end_timeout_s_(end_timeout_s) {}
  // To a communicator of the caller's.
  Connection(const Api& api, Comm borrowed)
      : api_(api), owned_(false), end_timeout_s_(0), comm_(borrowed) {}

  const Api& api() const noexcept { return api_; }
  const Place& place() const noexcept { return place_; }
  void set_place(const Place& place) { place_ = place; }
  Comm* slot() noexcept { return &comm_; }
  Comm comm() const noexcept;  // null before it was made

  // Makes the NCCL call `name`, body(comm), and waits until NCCL is done with it. Throws the
  // connection's failure, which the call may become: by its result, an asynchronous error, or the
  // deadline.
  template <class Function>
  void call(const char* name, const Deadline& deadline, const Function& body) {
    settle(name, deadline, alone(body));
  }
  // The same for a call that may not return: body runs in a thread of its own, whose current device
  // is this connection's, and may go on there after the deadline: it must own what it uses.
  using Body = std::function<Result(Comm)>;
  void call_beside(const char* name, const Deadline& deadline, Body body);
  // Waits until NCCL is done with the call `name`, which gave `result`.
  void settle(const char* name, const Deadline& deadline, Result result);
  // For NCCL calls that belong together: nobody else calls while the lock is held, and an abort
  // waits a while for it. Throws the failure, if there is one.
  std::unique_lock<std::mutex> lock_calls();

  // Throws the failure, if there is one; takes asynchronous errors into account unless a call is
  // under way.
  void poll();
  bool failed() const noexcept { return failure_.failed(); }
  void rethrow_failure() const { failure_.rethrow(); }
  // Records a failure, and ends an owned ncclComm_t, unless there is a failure already.
  void fail(syncnorm_status status, const std::string& message) noexcept;
  [[noreturn]] void fail_and_throw(syncnorm_status status, const std::string& message);
  // Because the other ranks have not come to `name` in time.
  [[noreturn]] void time_out(const char* name, const Deadline& deadline);
  // Because the waiting thread was interrupted in `name`.
  [[noreturn]] void fail_interrupted(const char* name);
  // For a call beside that comes back too late: what it has made is not wanted any more.
  void abort_if_failed() noexcept {
    if (failed()) abort_comm();
  }
  // Ends an owned ncclComm_t in good order: waits for its sums, and aborts if they take too long.
  // Of one that failed it waits for the abort.
  void close() noexcept;

 private:
  template <class Function>
  Result alone(const Function& body) {
    const std::unique_lock lock = lock_calls();
    return body(comm());
  }
  Result async_error(Comm comm) const;
  bool finalized();
  void let_calls_leave();
  void abort_comm() noexcept;
  void await_abort() const;
  std::optional<int> beside(double seconds, Body body);

  const Api& api_;  // lives as long as the process
  Place place_;
  const bool owned_;
  const double end_timeout_s_;
  Comm comm_ = nullptr;  // NCCL may write it from a thread of its own
  std::mutex calls_;
  std::atomic<bool> aborting_{false};
  std::atomic<bool> aborted_{false};  // or given up
  FirstFailure failure_;
};

}  // namespace syncnorm::nccl
