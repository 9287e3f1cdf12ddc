// The sum, in the order of the streams.
#include <algorithm>
#include <deque>
#include <vector>

#include "communicator.hpp"
#include "simt.hpp"

namespace nccl_double {

// One sum of a group. The stream of a rank comes to its part, and waits there at a gate until the
// last rank has come and has added up. Captured in a graph it does so at every launch of the graph,
// without a gate: the thread that launches it waits.
struct AllReduce {
  struct Part {
    AllReduce* sum;
    const void* src;
    void* dst;
    std::size_t count;
    ncclDataType_t type;
    bool called = false;
    bool arrived = false;
    bool dropped = false;
    std::shared_ptr<simt::Gate> gate;
  };

  explicit AllReduce(int size) : parts(static_cast<std::size_t>(size)) {}

  std::vector<Part> parts;
  bool stalled = false;
  int rounds = 0;  // so often it was done

  bool ready() const {
    return !stalled && std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
      return part.arrived && part.count == parts[0].count && part.type == parts[0].type;
    });
  }
};

namespace {

// In the order of the ranks: every rank gets the same bits.
template <class T>
void add_up(const AllReduce& sum) {
  std::vector<T> total(sum.parts[0].count);
  for (const AllReduce::Part& part : sum.parts) {
    const T* src = static_cast<const T*>(part.src);
    for (T& value : total) value += *src++;
  }
  for (const AllReduce::Part& part : sum.parts)
    std::copy(total.begin(), total.end(), static_cast<T*>(part.dst));
}

using Gates = std::vector<std::shared_ptr<simt::Gate>>;

// Where every rank has come, the sum is done. The gates are to be opened without the lock: streams
// then run on the thread that opens them.
Gates finish(AllReduce& sum) {
  Gates gates;
  if (!sum.ready()) return gates;
  if (sum.parts[0].type == ncclFloat32) {
    add_up<float>(sum);
  } else {
    add_up<double>(sum);
  }
  ++sum.rounds;
  for (AllReduce::Part& part : sum.parts) {
    part.arrived = false;
    if (part.gate != nullptr) gates.push_back(std::move(part.gate));
  }
  world().changed.notify_all();
  return gates;
}

void open(Lock& lock, const Gates& gates) {
  lock.unlock();
  for (const auto& gate : gates) gate->open();
  lock.lock();
}

void arrive(void* data) {
  auto& part = *static_cast<AllReduce::Part*>(data);
  Lock lock(world().mutex);
  if (part.dropped) return;
  part.arrived = true;
  open(lock, finish(*part.sum));
}

void arrive_and_wait(void* data) {
  auto& part = *static_cast<AllReduce::Part*>(data);
  Lock lock(world().mutex);
  const int round = part.sum->rounds;
  part.arrived = true;
  open(lock, finish(*part.sum));
  world().changed.wait(lock, [&] { return part.sum->rounds != round || part.dropped; });
}

bool captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  static_cast<void>(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// Without the lock: what can run, runs at once.
void enqueue(AllReduce::Part& part, cudaStream_t stream) {
  if (captured(stream)) {
    static_cast<void>(cudaLaunchHostFunc(stream, arrive_and_wait, &part));
    return;
  }
  static_cast<void>(cudaLaunchHostFunc(stream, arrive, &part));
  const auto gate = std::make_shared<simt::Gate>(stream);
  Lock lock(world().mutex);
  if (part.sum->rounds > 0 || part.dropped) {
    open(lock, {gate});
  } else {
    part.gate = gate;
  }
}

// Streams and graphs may come to a sum after its communicators have ended.
std::shared_ptr<AllReduce> new_sum(int size) {
  static auto& kept = *new std::deque<std::shared_ptr<AllReduce>>;
  return kept.emplace_back(std::make_shared<AllReduce>(size));
}

AllReduce::Part& part_of(ncclComm& comm, std::uint64_t number) {
  auto& sum = comm.group->sums[number];
  if (sum == nullptr) sum = new_sum(comm.group->size);
  AllReduce::Part& part = sum->parts[static_cast<std::size_t>(comm.rank)];
  part.sum = sum.get();
  return part;
}

}  // namespace

void drop_sums(Lock& lock, const ncclComm& comm) {
  Gates gates;
  for (const auto& [number, sum] : comm.group->sums) {
    AllReduce::Part& part = sum->parts[static_cast<std::size_t>(comm.rank)];
    part.dropped = true;
    if (part.gate != nullptr) gates.push_back(std::move(part.gate));
  }
  world().changed.notify_all();
  open(lock, gates);
}

bool sums_done(const ncclComm& comm) {
  return std::all_of(comm.group->sums.begin(), comm.group->sums.end(), [&](const auto& entry) {
    const AllReduce& sum = *entry.second;
    return !sum.parts[static_cast<std::size_t>(comm.rank)].called || sum.rounds > 0;
  });
}

}  // namespace nccl_double

using namespace nccl_double;

ncclResult_t ncclAllReduce(const void* sendbuff, void* recvbuff, size_t count,
                           ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t handle,
                           cudaStream_t stream) {
  Lock lock(world().mutex);
  const CommPtr comm = find_ready(lock, handle, "AllReduce");
  if (comm == nullptr) return ncclInvalidArgument;
  const ncclResult_t result = enter(lock, "AllReduce", [&] { return comm->aborted; });
  if (comm->aborted) return ncclInternalError;
  if (result != ncclSuccess) return result;
  int current = -1;
  if (cudaGetDevice(&current) != cudaSuccess || current != comm->device)
    return misuse("AllReduce: another device is current");
  if ((datatype != ncclFloat32 && datatype != ncclFloat64) || op != ncclSum)
    return misuse("AllReduce: unknown type");
  AllReduce::Part& part = part_of(*comm, comm->sums++);
  part.src = sendbuff;
  part.dst = recvbuff;
  part.count = count;
  part.type = datatype;
  part.called = !captured(stream);
  part.sum->stalled = part.sum->stalled || stalls("AllReduce");
  return begin(lock, *comm, "AllReduceCall", [&part, stream, device = comm->device](Lock& held) {
    held.unlock();
    int before = 0;
    static_cast<void>(cudaGetDevice(&before));
    static_cast<void>(cudaSetDevice(device));  // the default stream is that of the current device
    enqueue(part, stream);
    static_cast<void>(cudaSetDevice(before));
    held.lock();
    return true;
  });
}
