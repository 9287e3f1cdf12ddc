#include "communicator.hpp"

#include <utility>

#include "nccl_double.hpp"

namespace nccl_double {
namespace {

std::map<ncclComm_t, CommPtr>& alive() {
  static auto& made = *new std::map<ncclComm_t, CommPtr>;
  return made;
}

}  // namespace

bool Group::duplicate_device() const {
  std::map<int, int> ranks;  // by device
  for (const auto& [rank, device] : devices) {
    const auto [first, fresh] = ranks.try_emplace(device, rank);
    if (fresh) continue;
    complain("Duplicate GPU detected : rank " + std::to_string(first->second) + " and rank " +
             std::to_string(rank) + " both on CUDA device " + std::to_string(device));
    return true;
  }
  return false;
}

ncclComm_t add(CommPtr comm) {
  ncclComm_t handle = comm.get();
  alive()[handle] = std::move(comm);
  return handle;
}

void remove(ncclComm_t comm) { alive().erase(comm); }

CommPtr find(ncclComm_t comm, const char* function) {
  const auto found = alive().find(comm);
  if (found != alive().end()) return found->second;
  misuse(std::string(function) + " was called with what is no communicator");
  return nullptr;
}

CommPtr find_ready(Lock& lock, ncclComm_t handle, const char* function) {
  CommPtr comm = find(handle, function);
  if (comm == nullptr || state(lock, *comm) != ncclInProgress) return comm;
  misuse(std::string(function) + ": the previous operation is still in progress");
  return nullptr;
}

ncclResult_t begin(Lock& lock, ncclComm& comm, const char* function,
                   std::function<bool(Lock&)> done) {
  using Clock = std::chrono::steady_clock;
  comm.progress = [stall = stalls(function), end = Clock::now() + slowness(),
                   done = std::move(done)](Lock& held) {
    return !stall && Clock::now() >= end && done(held);
  };
  return comm.blocking ? wait_for(lock, comm) : ncclInProgress;
}

ncclResult_t state(Lock& lock, ncclComm& comm) {
  if (comm.progress) {
    if (comm.asked) return ncclInProgress;
    comm.asked = true;
    const bool done = comm.progress(lock);
    comm.asked = false;
    if (!done) return ncclInProgress;
    comm.progress = nullptr;
    world().changed.notify_all();
  }
  return comm.error != ncclSuccess ? comm.error : async_error();
}

ncclResult_t wait_for(Lock& lock, ncclComm& comm) {
  ncclResult_t result = ncclInProgress;
  while (!comm.aborted && (result = state(lock, comm)) == ncclInProgress)
    world().changed.wait_for(lock, std::chrono::milliseconds(1));
  return comm.aborted ? ncclInternalError : result;
}

}  // namespace nccl_double

long nccl_double_alive() {
  const nccl_double::Lock lock(nccl_double::world().mutex);
  return static_cast<long>(nccl_double::alive().size());
}
