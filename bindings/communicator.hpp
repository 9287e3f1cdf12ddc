// The Python class `Communicator`, and the ownership of its C handle.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <vector>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

class CommHandle;

// Shared ownership of a handle: a call keeps it while another thread closes the communicator.
using CommHold = std::shared_ptr<CommHandle>;
syncnorm_comm* get(const CommHold& hold) noexcept;

class Communicator {
 public:
  // Takes ownership.
  explicit Communicator(CommHold handle);

  // Raises InvalidArgumentError after close().
  CommHold hold() const;
  void close() noexcept { handle_.reset(); }
  bool closed() const noexcept { return handle_ == nullptr; }

  // False in a forked child of the process that created it: there every call is refused.
  bool of_this_process() const noexcept;

  // Valid after close() too.
  const syncnorm_comm_info& info() const noexcept { return info_; }

  // For the cycle collector: a callable may refer to its communicator.
  int traverse(visitproc visit, void* arg) const;
  void clear() noexcept;

 private:
  CommHold handle_;
  syncnorm_comm_info info_{};
  long process_;
};

// Take ownership of handles of the C interface.
Communicator adopt(syncnorm_comm* comm);
std::vector<Communicator> adopt(const std::vector<syncnorm_comm*>& comms);

void bind_communicator(nb::module_& module);

}  // namespace syncnorm::bindings
