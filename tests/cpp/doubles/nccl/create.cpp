// Communicators come to be: from an id, in a group call, by a split.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "communicator.hpp"

namespace nccl_double {
namespace {

// Of the calling thread, between ncclGroupStart and ncclGroupEnd.
struct GroupCall {
  int depth = 0;
  std::vector<CommPtr> made;
};
thread_local GroupCall group_call;

std::shared_ptr<Group> group_of(const ncclUniqueId& id, int size) {
  static auto& groups = *new std::map<std::string, std::shared_ptr<Group>>;
  auto& group = groups[std::string(id.internal, strnlen(id.internal, sizeof(id.internal)))];
  if (group == nullptr) group = std::make_shared<Group>(size);
  if (group->size != size) group->confused = true;
  return group;
}

void store(ncclComm_t* slot, ncclComm_t comm) { __atomic_store_n(slot, comm, __ATOMIC_RELEASE); }

bool well_formed(const ncclConfig_t* config) {
  return config != nullptr && config->size >= sizeof(ncclConfig_t) && config->magic == 0xcafebeef &&
         config->version >= 21800;
}

// A group call is done with every communicator together.
ncclResult_t begin_init(Lock& lock, const CommPtr& comm) {
  const bool grouped = group_call.depth > 0;
  const bool blocking = std::exchange(comm->blocking, comm->blocking && !grouped);
  const ncclResult_t result = begin(lock, *comm, "CommInitRankConfig", [self = comm.get()](Lock&) {
    if (!self->group->complete()) return false;
    if (self->group->duplicate_device()) self->error = ncclInvalidUsage;
    return true;
  });
  comm->blocking = blocking;
  if (grouped) group_call.made.push_back(comm);
  return grouped ? ncclSuccess : result;
}

// The ranks of one color, by key and then by old rank.
std::vector<int> members(const Meeting& meeting, int color) {
  std::vector<int> ranks;
  for (const auto& [rank, wish] : meeting.wishes)
    if (wish.color == color) ranks.push_back(rank);
  std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) {
    return meeting.wishes.at(a).key < meeting.wishes.at(b).key;
  });
  return ranks;
}

ncclComm_t make_part(Meeting& meeting, int color, int old_rank, int device, bool blocking) {
  const std::vector<int> ranks = members(meeting, color);
  auto& part = meeting.parts[color];
  if (part == nullptr) part = std::make_shared<Group>(static_cast<int>(ranks.size()));
  const auto rank =
      static_cast<int>(std::find(ranks.begin(), ranks.end(), old_rank) - ranks.begin());
  part->devices[rank] = device;
  auto comm = std::make_shared<ncclComm>();
  comm->group = part;
  comm->rank = rank;
  comm->device = device;
  comm->blocking = blocking;
  comm->progress = [part](Lock&) { return part->complete(); };
  return add(comm);
}

}  // namespace
}  // namespace nccl_double

using namespace nccl_double;

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  Lock lock(world().mutex);
  if (const ncclResult_t result = enter(lock, "GetUniqueId")) return result;
  const char* address = std::getenv("NCCL_COMM_ID");
  const std::string text =
      address != nullptr ? address : "nccl double, group " + std::to_string(++made);
  std::memset(id->internal, 0, sizeof(id->internal));
  text.copy(id->internal, sizeof(id->internal) - 1);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* slot, int nranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  Lock lock(world().mutex);
  store(slot, nullptr);
  if (const ncclResult_t result = enter(lock, "CommInitRankConfig")) return result;
  if (!well_formed(config)) return misuse("ncclConfig_t not initialized");
  if (nranks < 1 || rank < 0 || rank >= nranks) return misuse("Invalid rank requested");
  auto comm = std::make_shared<ncclComm>();
  if (cudaGetDevice(&comm->device) != cudaSuccess) return ncclUnhandledCudaError;
  comm->group = group_of(id, nranks);
  comm->rank = rank;
  comm->blocking = config->blocking != 0;
  if (!comm->group->devices.emplace(rank, comm->device).second) comm->group->confused = true;
  world().changed.notify_all();
  store(slot, add(comm));
  return begin_init(lock, comm);
}

ncclResult_t ncclGroupStart() {
  Lock lock(world().mutex);
  if (const ncclResult_t result = enter(lock, "GroupStart")) return result;
  ++group_call.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  Lock lock(world().mutex);
  const ncclResult_t injected = enter(lock, "GroupEnd");
  if (group_call.depth == 0) return misuse("ncclGroupEnd: not in a group call.");
  if (--group_call.depth > 0) return injected;
  const std::vector<CommPtr> made = std::exchange(group_call.made, {});
  if (injected != ncclSuccess) return injected;
  ncclResult_t result = ncclSuccess;
  for (const CommPtr& comm : made) {
    const ncclResult_t one = comm->blocking ? wait_for(lock, *comm) : state(lock, *comm);
    if (result == ncclSuccess) result = one;
  }
  return result;
}

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* slot,
                           ncclConfig_t* config) {
  Lock lock(world().mutex);
  store(slot, nullptr);
  const CommPtr comm = find_ready(lock, handle, "CommSplit");
  if (comm == nullptr) return ncclInvalidArgument;
  const ncclResult_t result = enter(lock, "CommSplit", [&] { return comm->aborted; });
  if (comm->aborted) return ncclInternalError;
  if (result != ncclSuccess) return result;
  if (config != nullptr && !well_formed(config)) return misuse("ncclConfig_t not initialized");
  const bool blocking = config != nullptr ? config->blocking != 0 : comm->blocking;
  const auto group = comm->group;
  const int number = comm->splits++;
  const int rank = comm->rank;
  const int device = comm->device;
  group->splits[number].wishes[rank] = {color, key};
  world().changed.notify_all();
  return begin(lock, *comm, "CommSplit", [=](Lock&) {
    Meeting& meeting = group->splits[number];
    if (static_cast<int>(meeting.wishes.size()) < group->size) return false;
    if (color >= 0) store(slot, make_part(meeting, color, rank, device, blocking));
    return true;
  });
}
