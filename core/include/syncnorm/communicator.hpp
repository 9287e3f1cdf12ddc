// Part of syncnorm.hpp: an owning handle on one rank of a group.
#ifndef SYNCNORM_COMMUNICATOR_HPP_
#define SYNCNORM_COMMUNICATOR_HPP_

#include <array>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "types.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {

// A trainer's own collectives as C++ functions. What they throw comes out of the call that led to
// them, or becomes its Status.
struct Callbacks {
  struct Group;
  // dst[0..count) = sum over the ranks of src[0..count). Host memory: return when dst is complete.
  // Device memory: enqueue on stream.
  std::function<void(const double* src, double* dst, std::int64_t count, void* stream)> sum;
  // Empty: the group cannot be split. Otherwise as MPI_Comm_split; no group where color < 0.
  std::function<std::optional<Group>(int color, int key)> split;
  int device_memory =
      1 << SYNCNORM_CPU;  // mask of 1 << syncnorm_device: where sum takes its buffers
  // Empty, or called by Communicator::abort, also from another thread while a sum is under way: to
  // end its wait, and to tell the other ranks.
  std::function<void(const std::string& reason)> abort;
};
struct Callbacks::Group {
  int rank = 0;
  int size = 1;
  Callbacks callbacks;
};

// The bytes by which the ranks of a new NCCL group find each other.
using NcclId = std::array<std::uint8_t, SYNCNORM_NCCL_ID_SIZE>;

// See syncnorm_nccl_options. 0: the default.
struct NcclOptions {
  std::chrono::duration<double> init_timeout{0};
  std::chrono::duration<double> sum_timeout{0};  // < 0: no watchdog
  int max_ctas = 0;

  syncnorm_nccl_options c_struct() const noexcept {
    return {sizeof(syncnorm_nccl_options), init_timeout.count(), sum_timeout.count(), max_ctas};
  }
};

// What Communicator::get() gives to C functions. No communicator can be made of it.
class CommunicatorView {
 public:
  explicit CommunicatorView(syncnorm_comm* handle) noexcept : handle_(handle) {}
  operator syncnorm_comm*() const noexcept { return handle_; }

 private:
  syncnorm_comm* handle_;
};

// Move-only; after a move only assignment, destruction and operator bool are allowed. One handle
// serves one call at a time; poll and abort may come from any thread.
class Communicator {
 public:
  Communicator() = default;  // holds no handle
  explicit operator bool() const noexcept { return handle_ != nullptr; }

  // n handles over one group whose ranks are threads of this process; element i is rank i.
  static std::vector<Communicator> thread_group(int n, std::chrono::duration<double> timeout,
                                                OnError on_error = {}) {
    std::vector<syncnorm_comm*> handles(n > 0 ? static_cast<std::size_t>(n) : 1, nullptr);
    on_error.check(syncnorm_comm_create_threads(n, timeout.count(), handles.data()));
    return adopt_if(on_error, handles);
  }

  // Made by one rank and carried to the others by the caller; good for one group.
  static NcclId nccl_id(OnError on_error = {}) {
    NcclId id{};
    on_error.check(syncnorm_nccl_unique_id(id.data()));
    return id;
  }

  // Collective. Without an id the ranks meet at the address in NCCL_COMM_ID.
  static Communicator nccl(const std::optional<NcclId>& id, int rank, int size, int device,
                           const NcclOptions& options = {}, OnError on_error = {}) {
    const syncnorm_nccl_options c = options.c_struct();
    syncnorm_comm* handle = nullptr;
    on_error.check(
        syncnorm_comm_create_nccl(id ? id->data() : nullptr, rank, size, device, &c, &handle));
    return adopt(handle);
  }

  // All ranks in this process: element i is rank i, on devices[i].
  static std::vector<Communicator> nccl_all(const std::vector<std::int32_t>& devices,
                                            const NcclOptions& options = {},
                                            OnError on_error = {}) {
    const syncnorm_nccl_options c = options.c_struct();
    std::vector<syncnorm_comm*> handles(devices.size(), nullptr);
    on_error.check(syncnorm_comm_create_nccl_all(static_cast<std::int32_t>(devices.size()),
                                                 devices.data(), &c, handles.data()));
    return adopt_if(on_error, handles);
  }

  // A handle on an ncclComm_t that stays the caller's and must outlive it: not on the address of
  // one, nor on a handle of ours.
  static Communicator borrow_nccl(void* nccl_comm, const NcclOptions& options = {},
                                  OnError on_error = {}) {
    const syncnorm_nccl_options c = options.c_struct();
    syncnorm_comm* handle = nullptr;
    on_error.check(syncnorm_comm_borrow_nccl(nccl_comm, &c, &handle));
    return adopt(handle);
  }
  template <class NcclComm>
  static Communicator borrow_nccl(NcclComm** address, const NcclOptions& options = {},
                                  OnError on_error = {}) = delete;
  static Communicator borrow_nccl(syncnorm_comm* handle, const NcclOptions& options = {},
                                  OnError on_error = {}) = delete;
  static Communicator borrow_nccl(std::nullptr_t, const NcclOptions& options = {},
                                  OnError on_error = {}) = delete;

  static Communicator callback(int rank, int size, Callbacks callbacks, OnError on_error = {}) {
    auto context = std::make_unique<Context>(std::move(callbacks));
    const syncnorm_callbacks c = context->c_struct();
    syncnorm_comm* handle = nullptr;
    on_error.check(syncnorm_comm_create_callback(rank, size, &c, &handle));
    if (handle == nullptr) return Communicator();
    return Communicator(handle, context.release());
  }

  // Takes a handle of the C interface into ownership; not one that another Communicator owns.
  static Communicator adopt(syncnorm_comm* handle) { return Communicator(handle, nullptr); }
  static Communicator adopt(CommunicatorView owned) = delete;
  static std::vector<Communicator> adopt(const std::vector<syncnorm_comm*>& handles) {
    std::vector<Communicator> ranks(handles.size());
    for (std::size_t i = 0; i < ranks.size(); ++i) ranks[i].handle_.reset(handles[i]);
    return ranks;
  }

  CommunicatorView get() const noexcept { return CommunicatorView(handle_.get()); }
  int rank(OnError on_error = {}) const { return info(on_error).rank; }
  int size(OnError on_error = {}) const { return info(on_error).size; }
  std::string kind(OnError on_error = {}) const { return info(on_error).kind; }
  int device_memory(OnError on_error = {}) const { return info(on_error).device_memory; }

  // Of host memory; complete when it returns.
  void sum(Span<const double> src, Span<double> dst, OnError on_error = {}) {
    sum(src, dst, SYNCNORM_CPU, nullptr, on_error);
  }
  void sum(Span<const double> src, Span<double> dst, syncnorm_device device, void* stream,
           OnError on_error = {}) {
    if (src.size() != dst.size()) {
      return on_error.fail(SYNCNORM_INVALID_ARGUMENT,
                           "sum: src has " + std::to_string(src.size()) + " values and dst " +
                               std::to_string(dst.size()) + "; expected as many");
    }
    finish(syncnorm_comm_sum(get(), src.data(), dst.data(), static_cast<std::int64_t>(src.size()),
                             device, stream),
           on_error);
  }

  // Collective. Nothing where color < 0.
  std::optional<Communicator> split(int color, int key = 0, OnError on_error = {}) {
    syncnorm_comm* part = nullptr;
    finish(syncnorm_comm_split(get(), color, key, &part), on_error);
    if (part == nullptr) return std::nullopt;
    return Communicator(part, context_ ? std::exchange(context_->part, nullptr) : nullptr);
  }

  // Until all that was enqueued on `stream` so far is done. Host communicators return at once.
  void wait(void* stream, std::chrono::duration<double> timeout, OnError on_error = {}) {
    finish(syncnorm_comm_wait(get(), stream, timeout.count()), on_error);
  }

  // Tells the first failure, if there was one.
  void poll(OnError on_error = {}) { on_error.check(syncnorm_comm_poll(get())); }
  void abort(const std::string& reason, OnError on_error = {}) {
    on_error.check(syncnorm_comm_abort(get(), reason.c_str()));
    if (!handle_ || context_ == nullptr || !context_->callbacks.abort) return;
    std::exception_ptr thrown;  // of this thread; a sum may be under way in another
    const syncnorm_status status =
        Context::guarded(thrown, [&] { context_->callbacks.abort(reason); });
    if (status != SYNCNORM_OK) on_error.fail(status, thrown);
  }

  // on_error.check after a C function that was given get(): what a callback threw meanwhile goes
  // first.
  void finish(syncnorm_status status, OnError on_error = {}) const {
    if (status != SYNCNORM_OK && handle_ && context_ != nullptr && context_->thrown) {
      return on_error.fail(status, std::exchange(context_->thrown, nullptr));
    }
    on_error.check(status);
  }

 private:
  struct Context {
    explicit Context(Callbacks functions) : callbacks(std::move(functions)) {}

    syncnorm_callbacks c_struct() {
      return {sizeof(syncnorm_callbacks),
              this,
              callbacks.sum ? &Context::sum : nullptr,
              callbacks.split ? &Context::split : nullptr,
              &Context::release,
              callbacks.device_memory};
    }

    template <class Body>
    static syncnorm_status guarded(std::exception_ptr& thrown, Body&& body) noexcept {
#if defined(__cpp_exceptions)
      try {
        body();
        return SYNCNORM_OK;
      } catch (const Error& error) {
        thrown = std::current_exception();
        return error.status();
      } catch (...) {
        thrown = std::current_exception();
        return SYNCNORM_INTERNAL;
      }
#else
      static_cast<void>(thrown);
      body();
      return SYNCNORM_OK;
#endif
    }

    static syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count,
                               void* stream) {
      auto& self = *static_cast<Context*>(context);
      return guarded(self.thrown, [&] { self.callbacks.sum(src, dst, count, stream); });
    }
    static syncnorm_status split(void* context, std::int32_t color, std::int32_t key,
                                 void** new_context, std::int32_t* new_rank,
                                 std::int32_t* new_size) {
      auto& self = *static_cast<Context*>(context);
      return guarded(self.thrown, [&] {
        std::optional<Callbacks::Group> group = self.callbacks.split(color, key);
        if (color < 0 || !group) return;
        *new_rank = group->rank;
        *new_size = group->size;
        self.part = new Context(std::move(group->callbacks));
        *new_context = self.part;
      });
    }
    static void release(void* context) { delete static_cast<Context*>(context); }

    Callbacks callbacks;
    std::exception_ptr thrown;
    Context* part = nullptr;  // what split has just made, on its way to its Communicator
  };

  struct Destroy {
    void operator()(syncnorm_comm* handle) const noexcept { syncnorm_comm_destroy(handle); }
  };

  Communicator(syncnorm_comm* handle, Context* context) : handle_(handle), context_(context) {}

  static std::vector<Communicator> adopt_if(OnError on_error,
                                            const std::vector<syncnorm_comm*>& handles) {
    return on_error.good() ? adopt(handles) : std::vector<Communicator>();
  }

  syncnorm_comm_info info(OnError on_error) const {
    syncnorm_comm_info info = SYNCNORM_COMM_INFO_INIT;
    on_error.check(syncnorm_comm_query(get(), &info));
    return info;
  }

  std::unique_ptr<syncnorm_comm, Destroy> handle_;
  Context* context_ = nullptr;  // of a callback communicator; owned by the handle
};

// Installs the check that ends the waits of this thread; see syncnorm_set_interrupt_check.
inline syncnorm_interrupt_fn set_interrupt_check(syncnorm_interrupt_fn check) noexcept {
  return syncnorm_set_interrupt_check(check);
}

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_COMMUNICATOR_HPP_
