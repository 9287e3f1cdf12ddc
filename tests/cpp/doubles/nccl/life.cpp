// What a communicator is asked, and how it ends.
#include <string>

#include "communicator.hpp"

using namespace nccl_double;

namespace {

template <class Get>
ncclResult_t answer(const char* function, ncclComm_t handle, int* value, Get get) {
  Lock lock(world().mutex);
  const CommPtr comm = find_ready(lock, handle, function);
  if (comm == nullptr) return ncclInvalidArgument;
  if (const ncclResult_t result = enter(lock, function)) return result;
  *value = get(*comm);
  return ncclSuccess;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  Lock lock(world().mutex);
  *version = nccl_double::version();
  return enter(lock, "GetVersion");
}

ncclResult_t ncclCommCount(ncclComm_t comm, int* count) {
  return answer("CommCount", comm, count, [](const ncclComm& it) { return it.group->size; });
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  return answer("CommUserRank", comm, rank, [](const ncclComm& it) { return it.rank; });
}

ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device) {
  return answer("CommCuDevice", comm, device, [](const ncclComm& it) { return it.device; });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  Lock lock(world().mutex);
  const CommPtr comm = find(handle, "CommGetAsyncError");
  if (comm == nullptr) return ncclInvalidArgument;
  if (const ncclResult_t result = enter(lock, "CommGetAsyncError", [&] { return comm->aborted; }))
    return result;
  *error = state(lock, *comm);
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  Lock lock(world().mutex);
  const CommPtr comm = find_ready(lock, handle, "CommFinalize");
  if (comm == nullptr) return ncclInvalidArgument;
  const ncclResult_t result = enter(lock, "CommFinalize", [&] { return comm->aborted; });
  if (comm->aborted) return ncclInternalError;
  if (result != ncclSuccess) return result;
  return begin(lock, *comm, "CommFinalize",
               [self = comm.get()](Lock&) { return sums_done(*self); });
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  Lock lock(world().mutex);
  const CommPtr comm = find_ready(lock, handle, "CommDestroy");
  if (comm == nullptr) return ncclInvalidArgument;
  if (const ncclResult_t result = enter(lock, "CommDestroy")) return result;
  remove(handle);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  Lock lock(world().mutex);
  const CommPtr comm = find(handle, "CommAbort");
  if (comm == nullptr) return ncclInvalidArgument;
  const ncclResult_t result = enter(lock, "CommAbort");
  comm->aborted = true;
  world().changed.notify_all();
  remove(handle);
  drop_sums(lock, *comm);
  return result;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) {
  static thread_local std::string told;
  const Lock lock(world().mutex);
  told = last_complaint();
  return told.c_str();
}
