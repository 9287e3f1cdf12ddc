#include "comm/nccl_connection.hpp"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "comm/interrupt.hpp"
#include "comm/nccl_cuda.hpp"
#include "comm/process_life.hpp"
#include "comm/side_call.hpp"
#include "support/error.hpp"

namespace syncnorm::nccl {
namespace {

// How long a call of another thread may take to return by itself before its ncclComm_t is aborted
// under it. NCCL frees what it aborts: only a call that hangs is worth that.
constexpr double kLongestGrace = 1.0;

}  // namespace

std::string text(const Place& place) {
  if (place.size == 0) return "a borrowed NCCL communicator";
  return concat("rank ", place.rank, " of ", place.size, " (CUDA device ", place.device, ")");
}

Comm Connection::comm() const noexcept { return __atomic_load_n(&comm_, __ATOMIC_ACQUIRE); }

void Connection::call_beside(const char* name, const Deadline& deadline, Body body) {
  const auto result = [&] {
    const std::unique_lock lock = lock_calls();
    return beside(deadline.left(), std::move(body));
  }();
  if (!result && deadline.passed()) time_out(name, deadline);
  if (!result) fail_interrupted(name);
  settle(name, deadline, static_cast<Result>(*result));
}

std::unique_lock<std::mutex> Connection::lock_calls() {
  std::unique_lock lock(calls_);
  failure_.rethrow();
  return lock;
}

void Connection::settle(const char* name, const Deadline& deadline, Result result) {
  Backoff backoff;
  InterruptCheck interrupt;
  while (result == kInProgress) {
    if (deadline.passed()) time_out(name, deadline);
    if (interrupt.interrupted()) fail_interrupted(name);
    backoff.pause();
    result = alone([this](Comm comm) { return async_error(comm); });
  }
  failure_.rethrow();  // of an abort that has ended this call
  if (result != kSuccess) {
    fail_and_throw(status_of(result),
                   concat(text(place_), ": ", name, " failed: ", describe(api_, result)));
  }
}

void Connection::poll() {
  failure_.rethrow();
  Result state = kSuccess;
  {
    const std::unique_lock lock(calls_, std::try_to_lock);
    if (lock.owns_lock() && !failed()) state = async_error(comm());
  }
  failure_.rethrow();
  if (state == kSuccess || state == kInProgress) return;
  fail_and_throw(status_of(state), concat(text(place_), ": NCCL reports: ", describe(api_, state)));
}

void Connection::fail(syncnorm_status status, const std::string& message) noexcept {
  if (failure_.record(status, message)) abort_comm();
}

void Connection::fail_and_throw(syncnorm_status status, const std::string& message) {
  fail(status, message);
  failure_.raise();
}

void Connection::close() noexcept {
  if (!owned_ || process_is_over()) return;
  // From here on a failure is too late, and nobody else ends it.
  if (!failure_.record(SYNCNORM_INTERNAL, concat(text(place_), " was closed")))
    return await_abort();
  try {
    let_calls_leave();
    if (finalized()) {
      beside(end_timeout_s_, api_.comm_destroy);
    } else {
      abort_comm();
    }
  } catch (const std::exception&) {  // no thread could be had
    abort_comm();
  }
}

// A call that gave kInProgress is followed by GetAsyncError.
Result Connection::async_error(Comm comm) const {
  Result state = kSuccess;
  const Result result = api_.comm_get_async_error(comm, &state);
  return result == kSuccess ? state : result;
}

void Connection::time_out(const char* name, const Deadline& deadline) {
  fail_and_throw(
      SYNCNORM_TIMEOUT,
      concat(text(place_), " waited ", deadline.seconds(), " s for the other ranks in ", name,
             ". Likely causes: a rank that was not started, has died or makes another call; ranks "
             "with different ids or sizes; a network interface that the others cannot reach "
             "(NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more). If a rank may honestly come later, "
             "raise init_timeout_s"));
}

void Connection::fail_interrupted(const char* name) {
  fail_and_throw(SYNCNORM_INTERNAL, concat(text(place_), " was interrupted while it waited in ",
                                           name, ". Create a new group to continue"));
}

bool Connection::finalized() {
  const Deadline deadline(end_timeout_s_);
  std::optional<int> result = beside(deadline.left(), api_.comm_finalize);
  Backoff backoff;
  while (result == kInProgress && !deadline.passed()) {
    backoff.pause();
    result = async_error(comm());
  }
  return result == kSuccess;
}

// A failure stands: calls that come from now on do not reach NCCL.
void Connection::let_calls_leave() {
  const Deadline deadline(std::min(kLongestGrace, end_timeout_s_));
  Backoff backoff;
  while (!calls_.try_lock()) {
    if (deadline.passed()) return;
    backoff.pause();
  }
  calls_.unlock();
}

void Connection::abort_comm() noexcept {
  if (!owned_ || comm() == nullptr || process_is_over() || aborting_.exchange(true)) return;
  try {
    let_calls_leave();
    beside(end_timeout_s_, api_.comm_abort);
  } catch (const std::exception&) {  // no thread could be had
    api_.comm_abort(comm());
  }
  aborted_ = true;
}

void Connection::await_abort() const {
  const Deadline deadline(kLongestGrace + end_timeout_s_);
  for (Backoff backoff; !aborted_ && !deadline.passed();) backoff.pause();
}

std::optional<int> Connection::beside(double seconds, Body body) {
  return result_within(seconds, [self = shared_from_this(), body = std::move(body)] {
    const OutsideCaptures outside;
    const bool on_device = cudaSetDevice(self->place_.device) == cudaSuccess;
    // After a failure NCCL is asked in any case: it holds more than what is on the device.
    return static_cast<int>(on_device || self->failed() ? body(self->comm()) : kUnhandledCudaError);
  });
}

}  // namespace syncnorm::nccl
