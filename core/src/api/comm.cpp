#include <algorithm>
#include <vector>

#include "api/guard.hpp"
#include "api/handle.hpp"
#include "comm/callback.hpp"
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

}  // namespace

extern "C" syncbn_status syncbn_comm_create_threads(int32_t n, double timeout_s,
                                                    syncbn_comm** comms) {
  return guarded([&] {
    check(comms != nullptr, "comms is NULL; expected room for n handles");
    auto group = syncbn::make_thread_group(n, timeout_s);
    std::vector<std::unique_ptr<syncbn_comm>> handles;
    for (auto& communicator : group) handles.emplace_back(make_handle(std::move(communicator)));
    std::transform(handles.begin(), handles.end(), comms,
                   [](auto& handle) { return handle.release(); });
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
