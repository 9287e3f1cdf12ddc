// The Python class `Communicator`: a handle of the C interface and what keeps it alive.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <vector>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

class CommHandle;

// Keeps a handle while a call uses it, also if Python closes the communicator meanwhile.
using CommHold = std::shared_ptr<CommHandle>;
syncnorm_comm* get(const CommHold& hold) noexcept;

class Communicator {
 public:
  // Takes ownership.
  explicit Communicator(CommHold handle);

  // Raises InvalidArgumentError if it was closed.
  CommHold hold() const;
  void close() noexcept { handle_.reset(); }
  bool closed() const noexcept { return handle_ == nullptr; }

  // Known also after close().
  const syncnorm_comm_info& info() const noexcept { return info_; }

  // For the cycle collector: a callable may refer to the communicator that it serves.
  int traverse(visitproc visit, void* arg) const;
  void clear() noexcept;

 private:
  CommHold handle_;
  syncnorm_comm_info info_{};
};

// Communicators over handles of the C interface, which they own from here on.
Communicator adopt(syncnorm_comm* comm);
std::vector<Communicator> adopt(const std::vector<syncnorm_comm*>& comms);

void bind_communicator(nb::module_& module);

}  // namespace syncnorm::bindings
