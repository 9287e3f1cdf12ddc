#include <algorithm>
#include <numeric>
#include <vector>

#include "api/guard.hpp"
#include "api/handle.hpp"
#include "comm/callback.hpp"
#include "comm/deadline.hpp"
#include "comm/nccl.hpp"
#include "comm/threads.hpp"

using syncbn::check;
using syncbn::Communicator;
using namespace syncbn::api;

namespace {

Communicator& checked(const syncbn_comm* comm) {
  check(comm != nullptr, "comm is NULL; expected a communicator");
  return *comm->communicator;
}

syncbn_comm* make_handle(std::unique_ptr<Communicator> communicator) {
  return new syncbn_comm{std::move(communicator)};
}

void hand_over(std::vector<std::unique_ptr<Communicator>> group, syncbn_comm** comms) {
  std::vector<std::unique_ptr<syncbn_comm>> handles;
  for (auto& communicator : group) handles.emplace_back(make_handle(std::move(communicator)));
  std::transform(handles.begin(), handles.end(), comms,
                 [](auto& handle) { return handle.release(); });
}

syncbn_nccl_options read_options(const syncbn_nccl_options* options) {
  const syncbn_nccl_options defaults = SYNCBN_NCCL_OPTIONS_INIT;
  return options == nullptr ? defaults : read_struct("options", options, defaults);
}

}  // namespace

extern "C" syncbn_status syncbn_comm_create_threads(int32_t n, double timeout_s,
                                                    syncbn_comm** comms) {
  return guarded([&] {
    check(comms != nullptr, "comms is NULL; expected room for n handles");
    hand_over(syncbn::make_thread_group(n, timeout_s), comms);
  });
}

extern "C" syncbn_status syncbn_comm_create_callback(int32_t rank, int32_t size,
                                                     const syncbn_callbacks* callbacks,
                                                     syncbn_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    // The handle first: once the communicator exists its end releases the caller's context.
    auto handle = std::make_unique<syncbn_comm>();
    handle->communicator = syncbn::make_callback_communicator(
        rank, size, read_struct("callbacks", callbacks, syncbn_callbacks{}));
    *comm = handle.release();
  });
}

extern "C" syncbn_status syncbn_nccl_unique_id(uint8_t id[SYNCBN_NCCL_ID_SIZE]) {
  return guarded([&] {
    check(id != nullptr, "id is NULL; expected room for ", SYNCBN_NCCL_ID_SIZE, " bytes");
    syncbn::make_nccl_id(id);
  });
}

extern "C" syncbn_status syncbn_comm_create_nccl(const uint8_t* id, int32_t rank, int32_t size,
                                                 int32_t device_index,
                                                 const syncbn_nccl_options* options,
                                                 syncbn_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    *comm = make_handle(
        syncbn::make_nccl_communicator(id, rank, size, device_index, read_options(options)));
  });
}

extern "C" syncbn_status syncbn_comm_create_nccl_all(int32_t n, const int32_t* device_indices,
                                                     const syncbn_nccl_options* options,
                                                     syncbn_comm** comms) {
  return guarded([&] {
    check(n >= 1, "n is ", n, "; expected the number of ranks, at least 1");
    check(comms != nullptr, "comms is NULL; expected room for n handles");
    std::vector<int> devices(static_cast<std::size_t>(n));
    if (device_indices == nullptr) {
      std::iota(devices.begin(), devices.end(), 0);
    } else {
      std::copy_n(device_indices, n, devices.begin());
    }
    hand_over(syncbn::make_nccl_group(devices, read_options(options)), comms);
  });
}

extern "C" syncbn_status syncbn_comm_borrow_nccl(void* nccl_comm,
                                                 const syncbn_nccl_options* options,
                                                 syncbn_comm** comm) {
  return guarded([&] {
    check(comm != nullptr, "comm is NULL; expected room for a handle");
    *comm = make_handle(syncbn::borrow_nccl_communicator(nccl_comm, read_options(options)));
  });
}

extern "C" syncbn_status syncbn_comm_wait(syncbn_comm* comm, void* stream, double timeout_s) {
  return guarded([&] {
    check(timeout_s > 0 && timeout_s <= syncbn::kLongestTimeout, "timeout_s is ", timeout_s,
          "; expected more than 0 and at most ", syncbn::kLongestTimeout);
    checked(comm).wait(stream, timeout_s);
  });
}

extern "C" syncbn_status syncbn_comm_split(syncbn_comm* comm, int32_t color, int32_t key,
                                           syncbn_comm** new_comm) {
  return guarded([&] {
    check(new_comm != nullptr, "new_comm is NULL; expected room for a handle");
    auto part = checked(comm).split(color, key);
    *new_comm = part == nullptr ? nullptr : make_handle(std::move(part));
  });
}

extern "C" syncbn_status syncbn_comm_query(const syncbn_comm* comm, syncbn_comm_info* info) {
  return guarded([&] {
    const Communicator& communicator = checked(comm);
    write_struct(
        "info", info,
        syncbn_comm_info{sizeof(syncbn_comm_info), communicator.rank(), communicator.size(),
                         communicator.kind(), communicator.device_memory()});
  });
}

extern "C" syncbn_status syncbn_comm_sum(syncbn_comm* comm, const double* src, double* dst,
                                         int64_t count, syncbn_device device, void* stream) {
  return guarded([&] {
    Communicator& communicator = checked(comm);
    check(count >= 0, "count is ", count, "; expected >= 0");
    check(count == 0 || (src != nullptr && dst != nullptr), "src or dst is NULL");
    check(count == 0 || src != dst, "dst is the same buffer as src; the sum is out of place");
    communicator.sum(src, dst, count, device, stream);
  });
}

extern "C" syncbn_status syncbn_comm_poll(syncbn_comm* comm) {
  return guarded([&] { checked(comm).poll(); });
}

extern "C" syncbn_status syncbn_comm_abort(syncbn_comm* comm, const char* reason) {
  return guarded(
      [&] { checked(comm).abort(reason == nullptr ? "aborted by the caller" : reason); });
}

extern "C" void syncbn_comm_destroy(syncbn_comm* comm) { delete comm; }
