#include "comm/callback.hpp"

#include <atomic>
#include <utility>

#include "comm/exclusive_use.hpp"
#include "comm/first_failure.hpp"

namespace syncbn {
namespace {

constexpr int kKnownMemory = 1 << SYNCBN_CPU | 1 << SYNCBN_CUDA;

// The callbacks with their context, which is released once.
class OwnedCallbacks {
 public:
  explicit OwnedCallbacks(const syncbn_callbacks& callbacks) : callbacks_(callbacks) {}
  OwnedCallbacks(OwnedCallbacks&& other) noexcept
      : callbacks_(other.callbacks_), owned_(std::exchange(other.owned_, false)) {}
  OwnedCallbacks& operator=(OwnedCallbacks&&) = delete;
  ~OwnedCallbacks() {
    if (owned_ && callbacks_.release) callbacks_.release(callbacks_.context);
  }

  const syncbn_callbacks& get() const noexcept { return callbacks_; }

 private:
  syncbn_callbacks callbacks_;
  bool owned_ = true;
};

class CallbackCommunicator final : public Communicator {
 public:
  CallbackCommunicator(int rank, int size, OwnedCallbacks callbacks)
      : callbacks_(std::move(callbacks)), rank_(rank), size_(size) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  const char* kind() const noexcept override { return "callback"; }
  int device_memory() const noexcept override {
    const int memory = callbacks_.get().device_memory;
    return memory ? memory : 1 << SYNCBN_CPU;
  }

  void sum(const double* src, double* dst, std::int64_t count, syncbn_device device,
           void* stream) override {
    const bool known = device == SYNCBN_CPU || device == SYNCBN_CUDA;
    if (!known || !(device_memory() & 1 << device)) {
      fail(SYNCBN_UNSUPPORTED, "the sum callback of rank ", rank_,
           " does not take memory of device ", static_cast<int>(device), " (device_memory is ",
           device_memory(),
           "): set its bit 1 << device in syncbn_callbacks.device_memory if it does");
    }
    const ExclusiveUse use(in_use_, rank_);
    poll();
    const syncbn_callbacks& call = callbacks_.get();
    require_ok(call.sum(call.context, src, dst, count, stream), "sum");
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const syncbn_callbacks& call = callbacks_.get();
    if (!call.split) {
      fail(SYNCBN_UNSUPPORTED, "the callback communicator of rank ", rank_,
           " cannot be split: it was created without a split callback");
    }
    const ExclusiveUse use(in_use_, rank_);
    poll();
    syncbn_callbacks part = call;
    std::int32_t rank = -1;
    std::int32_t size = 0;
    part.context = nullptr;
    require_ok(call.split(call.context, color, key, &part.context, &rank, &size), "split");
    if (color < 0) return nullptr;
    OwnedCallbacks owned(part);
    if (rank < 0 || rank >= size) {
      failure_.record(SYNCBN_INTERNAL, concat("the split callback of rank ", rank_, " of ", size_,
                                              " gave rank ", rank, " of ", size, " for color ",
                                              color, ", expected 0 <= rank < size"));
      poll();
    }
    return std::make_unique<CallbackCommunicator>(rank, size, std::move(owned));
  }

  void poll() override { failure_.rethrow(); }

  // The work that the callback has enqueued is on a stream whose runtime only the trainer knows.
  void wait(void*, double) override {
    if (device_memory() == 1 << SYNCBN_CPU) return;
    fail(SYNCBN_UNSUPPORTED, "the callback communicator of rank ", rank_,
         " sums device memory by a function of yours: wait for its stream by your own means, such "
         "as cudaStreamSynchronize");
  }

  void abort(const std::string& reason) noexcept override {
    failure_.record(SYNCBN_INTERNAL,
                    concat("rank ", rank_, " of ", size_, " was aborted: ", reason));
  }

 private:
  void require_ok(syncbn_status status, const char* name) {
    if (status == SYNCBN_OK) return;
    const bool known = status > SYNCBN_OK && status <= SYNCBN_INTERNAL;
    failure_.record(known ? status : SYNCBN_INTERNAL,
                    concat("the ", name, " callback of rank ", rank_, " of ", size_, " returned ",
                           known ? "status " : "an unknown status, ", static_cast<int>(status),
                           "; this communicator stays failed"));
    poll();
  }

  const OwnedCallbacks callbacks_;
  const int rank_;
  const int size_;
  std::atomic<bool> in_use_{false};
  FirstFailure failure_;
};

}  // namespace

std::unique_ptr<Communicator> make_callback_communicator(int rank, int size,
                                                         const syncbn_callbacks& callbacks) {
  check(size >= 1 && rank >= 0 && rank < size, "callback communicator: got rank ", rank, " of ",
        size, ", expected 0 <= rank < size");
  check(callbacks.sum, "callback communicator: the sum callback is NULL, it is needed");
  check(!(callbacks.device_memory & ~kKnownMemory), "callback communicator: device_memory is ",
        callbacks.device_memory, ", expected a mask of 1 << SYNCBN_CPU and 1 << SYNCBN_CUDA");
  return std::make_unique<CallbackCommunicator>(rank, size, OwnedCallbacks(callbacks));
}

}  // namespace syncbn
