#include <algorithm>
#include <numeric>
#include <vector>

#include "api/guard.hpp"
#include "api/handle.hpp"
#include "comm/callback.hpp"
#include "comm/deadline.hpp"
#include "comm/interrupt.hpp"
#include "comm/nccl.hpp"
#include "comm/threads.hpp"

using syncnorm::check;
using syncnorm::Communicator;
using namespace syncnorm::api;

namespace {

const syncnorm_comm& present(const syncnorm_comm* comm) {
  check(comm != nullptr, "comm is NULL; expected a communicator");
  return *comm;
}

Communicator& checked(const syncnorm_comm* comm) {
  require_home(present(comm));
  return *comm->communicator;
}

syncnorm_comm* make_handle(std::unique_ptr<Communicator> communicator) {
  return new syncnorm_comm{std::move(communicator)};
}

void hand_over(std::vector<std::unique_ptr<Communicator>> group, syncnorm_comm** comms) {
  std::vector<std::unique_ptr<syncnorm_comm>> handles;
  for (auto& communicator : group) handles.emplace_back(make_handle(std::move(communicator)));
  std::transform(handles.begin(), handles.end(), comms,
                 [](auto& handle) { return handle.release(); });
}

syncnorm_nccl_options read_options(const syncnorm_nccl_options* options) {
  const syncnorm_nccl_options defaults = SYNCNORM_NCCL_OPTIONS_INIT;
  return options == nullptr ? defaults : read_struct("options", options, defaults);
}

}  // namespace

void syncnorm::api::require_home(const syncnorm_comm& comm) {
  if (!comm.home.left()) return;
  const Communicator& self = *comm.communicator;
  fail(SYNCNORM_UNSUPPORTED, "this communicator, rank ", self.rank(), " of ", self.size(), " (",
       self.kind(), "), was created by process ", comm.home.pid(), ", got a call in process ",
       syncnorm::HomeProcess().pid(),
       ", a forked child of it: a group does not survive a fork. Create the group in the "
       "child, or start workers that use it by spawn");
}

extern "C" syncnorm_status syncnorm_comm_create_threads(int32_t n, double timeout_s,
                                                        syncnorm_comm** comms) {
  return guarded([&] {
    check(comms != nullptr, "comms is NULL; expected room for n handles");
    hand_over(syncnorm::make_thread_group(n, timeout_s), comms);
  });
}

extern "C" syncnorm_status syncnorm_comm_create_callback(int32_t rank, int32_t size,
                                                         const syncnorm_callbacks* callbacks,
                                                         syncnorm_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    // The handle first: once the communicator exists its end releases the caller's context.
    auto handle = std::make_unique<syncnorm_comm>();
    handle->communicator = syncnorm::make_callback_communicator(
        rank, size, read_struct("callbacks", callbacks, syncnorm_callbacks{}));
    *comm = handle.release();
  });
}

extern "C" syncnorm_status syncnorm_nccl_unique_id(uint8_t id[SYNCNORM_NCCL_ID_SIZE]) {
  return guarded([&] {
    check(id != nullptr, "id is NULL; expected room for ", SYNCNORM_NCCL_ID_SIZE, " bytes");
    syncnorm::make_nccl_id(id);
  });
}

extern "C" syncnorm_status syncnorm_comm_create_nccl(const uint8_t* id, int32_t rank, int32_t size,
                                                     int32_t device_index,
                                                     const syncnorm_nccl_options* options,
                                                     syncnorm_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    *comm = make_handle(
        syncnorm::make_nccl_communicator(id, rank, size, device_index, read_options(options)));
  });
}

extern "C" syncnorm_status syncnorm_comm_create_nccl_all(int32_t n, const int32_t* device_indices,
                                                         const syncnorm_nccl_options* options,
                                                         syncnorm_comm** comms) {
  return guarded([&] {
    check(n >= 1, "n is ", n, "; expected the number of ranks, at least 1");
    check(comms != nullptr, "comms is NULL; expected room for n handles");
    std::vector<int> devices(static_cast<std::size_t>(n));
    if (device_indices == nullptr) {
      std::iota(devices.begin(), devices.end(), 0);
    } else {
      std::copy_n(device_indices, n, devices.begin());
    }
    hand_over(syncnorm::make_nccl_group(devices, read_options(options)), comms);
  });
}

extern "C" syncnorm_status syncnorm_comm_borrow_nccl(void* nccl_comm,
                                                     const syncnorm_nccl_options* options,
                                                     syncnorm_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    *comm = make_handle(syncnorm::borrow_nccl_communicator(nccl_comm, read_options(options)));
  });
}

extern "C" syncnorm_status syncnorm_comm_wait(syncnorm_comm* comm, void* stream, double timeout_s) {
  return guarded([&] {
    check(timeout_s > 0 && timeout_s <= syncnorm::kLongestTimeout, "timeout_s is ", timeout_s,
          "; expected more than 0 and at most ", syncnorm::kLongestTimeout);
    checked(comm).wait(stream, timeout_s);
  });
}

extern "C" syncnorm_status syncnorm_comm_split(syncnorm_comm* comm, int32_t color, int32_t key,
                                               syncnorm_comm** new_comm) {
  return guarded([&] {
    check(new_comm != nullptr, "new_comm is NULL; expected room for a handle");
    auto part = checked(comm).split(color, key);
    *new_comm = part == nullptr ? nullptr : make_handle(std::move(part));
  });
}

extern "C" syncnorm_status syncnorm_comm_query(const syncnorm_comm* comm,
                                               syncnorm_comm_info* info) {
  return guarded([&] {
    const Communicator& communicator = *present(comm).communicator;
    write_struct(
        "info", info,
        syncnorm_comm_info{sizeof(syncnorm_comm_info), communicator.rank(), communicator.size(),
                           communicator.kind(), communicator.device_memory()});
  });
}

extern "C" syncnorm_status syncnorm_comm_sum(syncnorm_comm* comm, const double* src, double* dst,
                                             int64_t count, syncnorm_device device, void* stream) {
  return guarded([&] {
    Communicator& communicator = checked(comm);
    check(count >= 0, "count is ", count, "; expected >= 0");
    check(count == 0 || (src != nullptr && dst != nullptr), "src or dst is NULL");
    check(count == 0 || src != dst, "dst is the same buffer as src; the sum is out of place");
    communicator.sum(src, dst, count, device, stream);
  });
}

extern "C" syncnorm_status syncnorm_comm_poll(syncnorm_comm* comm) {
  return guarded([&] { checked(comm).poll(); });
}

extern "C" syncnorm_status syncnorm_comm_abort(syncnorm_comm* comm, const char* reason) {
  return guarded(
      [&] { checked(comm).abort(reason == nullptr ? "aborted by the caller" : reason); });
}

extern "C" void syncnorm_comm_destroy(syncnorm_comm* comm) {
  if (comm == nullptr) return;
  if (comm->home.left()) static_cast<void>(comm->communicator.release());  // it is the parent's
  const syncnorm_interrupt_fn check = syncnorm::set_interrupt_check(nullptr);
  delete comm;
  syncnorm::set_interrupt_check(check);
}

extern "C" syncnorm_interrupt_fn syncnorm_set_interrupt_check(syncnorm_interrupt_fn check) {
  return syncnorm::set_interrupt_check(check);
}
