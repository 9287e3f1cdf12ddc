// The communicators of the double.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "control.hpp"
#include "nccl.hpp"

namespace nccl_double {

struct AllReduce;

// Ranks that have come to a split, by their old rank.
struct Meeting {
  struct Wish {
    int color;
    int key;
  };
  std::map<int, Wish> wishes;
  std::map<int, std::shared_ptr<struct Group>> parts;  // by color, made by the first that asks
};

struct Group {
  explicit Group(int ranks) : size(ranks) {}

  const int size;
  std::map<int, int> devices;     // of the ranks that have come
  bool confused = false;          // ranks that disagree about the group: nobody gets further
  std::map<int, Meeting> splits;  // by their number
  std::map<std::uint64_t, std::shared_ptr<AllReduce>> sums;

  bool complete() const { return static_cast<int>(devices.size()) == size && !confused; }
  bool duplicate_device() const;
};

}  // namespace nccl_double

struct ncclComm {
  std::shared_ptr<nccl_double::Group> group;
  int rank;
  int device;
  bool blocking;
  bool aborted = false;
  // What the last call began: gives whether it is done, and may let go of the lock meanwhile.
  // Empty: nothing is in progress.
  std::function<bool(nccl_double::Lock&)> progress;
  bool asked = false;                // somebody is asking that now
  ncclResult_t error = ncclSuccess;  // what it came to
  std::uint64_t sums = 0;
  int splits = 0;
};

namespace nccl_double {

using CommPtr = std::shared_ptr<ncclComm>;

ncclComm_t add(CommPtr comm);
void remove(ncclComm_t comm);
// nullptr, and a misuse, where `comm` is none.
CommPtr find(ncclComm_t comm, const char* function);
// The same where it is still busy with its last call.
CommPtr find_ready(Lock& lock, ncclComm_t comm, const char* function);

// Lets `comm` be in progress until done() and the test's slowness are over, unless `function` is to
// stall. Gives what the call returns: at once, or of a blocking communicator in the end.
ncclResult_t begin(Lock& lock, ncclComm& comm, const char* function,
                   std::function<bool(Lock&)> done);
// Where it stands with what was begun.
ncclResult_t state(Lock& lock, ncclComm& comm);
// Until it is not in progress any more.
ncclResult_t wait_for(Lock& lock, ncclComm& comm);

// The part of an aborted communicator in its sums ends, and its streams go on.
void drop_sums(Lock& lock, const ncclComm& comm);
// Whether the streams have come past all its sums.
bool sums_done(const ncclComm& comm);

}  // namespace nccl_double
