#include "comm/callback.hpp"

#include <atomic>
#include <utility>

#include "comm/exclusive_use.hpp"
#include "comm/first_failure.hpp"

namespace syncnorm {
namespace {

constexpr int kKnownMemory = 1 << SYNCNORM_CPU | 1 << SYNCNORM_CUDA;

// The callbacks with their context, which is released once.
class OwnedCallbacks {
 public:
  explicit OwnedCallbacks(const syncnorm_callbacks& callbacks) : callbacks_(callbacks) {}
  OwnedCallbacks(OwnedCallbacks&& other) noexcept
      : callbacks_(other.callbacks_), owned_(std::exchange(other.owned_, false)) {}
  OwnedCallbacks& operator=(OwnedCallbacks&&) = delete;
  ~OwnedCallbacks() {
    if (owned_ && callbacks_.release) callbacks_.release(callbacks_.context);
  }

  const syncnorm_callbacks& get() const noexcept { return callbacks_; }

 private:
  syncnorm_callbacks callbacks_;
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
    return memory ? memory : 1 << SYNCNORM_CPU;
  }

  void sum(const double* src, double* dst, std::int64_t count, syncnorm_device device,
           void* stream) override {
    const bool known = device == SYNCNORM_CPU || device == SYNCNORM_CUDA;
    if (!known || !(device_memory() & 1 << device)) {
      fail(SYNCNORM_UNSUPPORTED, "the sum callback of rank ", rank_,
           " does not take memory of device ", static_cast<int>(device), " (device_memory is ",
           device_memory(),
           "): set its bit 1 << device in syncnorm_callbacks.device_memory if it does");
    }
    const ExclusiveUse use(in_use_, rank_);
    poll();
    const syncnorm_callbacks& call = callbacks_.get();
    require_ok(call.sum(call.context, src, dst, count, stream), "sum");
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const syncnorm_callbacks& call = callbacks_.get();
    if (!call.split) {
      fail(SYNCNORM_UNSUPPORTED, "the callback communicator of rank ", rank_,
           " cannot be split: it was created without a split callback");
    }
    const ExclusiveUse use(in_use_, rank_);
    poll();
    syncnorm_callbacks part = call;
    std::int32_t rank = -1;
    std::int32_t size = 0;
    part.context = nullptr;
    require_ok(call.split(call.context, color, key, &part.context, &rank, &size), "split");
    if (color < 0) return nullptr;
    OwnedCallbacks owned(part);
    if (rank < 0 || rank >= size) {
      failure_.record(SYNCNORM_INTERNAL, concat("the split callback of rank ", rank_, " of ", size_,
                                                " gave rank ", rank, " of ", size, " for color ",
                                                color, ", expected 0 <= rank < size"));
      poll();
    }
    return std::make_unique<CallbackCommunicator>(rank, size, std::move(owned));
  }

  void poll() override { failure_.rethrow(); }

  // The work that the callback has enqueued is on a stream whose runtime only the trainer knows.
  void wait(void*, double) override {
    if (device_memory() == 1 << SYNCNORM_CPU) return;
    fail(SYNCNORM_UNSUPPORTED, "the callback communicator of rank ", rank_,
         " sums device memory by a function of yours: wait for its stream by your own means, such "
         "as cudaStreamSynchronize");
  }

  void abort(const std::string& reason) noexcept override {
    failure_.record(SYNCNORM_INTERNAL,
                    concat("rank ", rank_, " of ", size_, " was aborted: ", reason));
  }

 private:
  void require_ok(syncnorm_status status, const char* name) {
    if (status == SYNCNORM_OK) return;
    const bool known = status > SYNCNORM_OK && status <= SYNCNORM_RANK_LOST;
    failure_.record(known ? status : SYNCNORM_INTERNAL,
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
                                                         const syncnorm_callbacks& callbacks) {
  check(size >= 1 && rank >= 0 && rank < size, "callback communicator: got rank ", rank, " of ",
        size, ", expected 0 <= rank < size");
  check(callbacks.sum, "callback communicator: the sum callback is NULL, it is needed");
  check(!(callbacks.device_memory & ~kKnownMemory), "callback communicator: device_memory is ",
        callbacks.device_memory, ", expected a mask of 1 << SYNCNORM_CPU and 1 << SYNCNORM_CUDA");
  return std::make_unique<CallbackCommunicator>(rank, size, OwnedCallbacks(callbacks));
}

}  // namespace syncnorm
