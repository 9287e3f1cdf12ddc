// The C handle of a communicator.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "syncbn/syncbn.h"

struct syncbn_comm {
  std::unique_ptr<syncbn::Communicator> communicator;
};

namespace syncbn::api {

inline Communicator* optional_communicator(syncbn_comm* comm) {
  return comm == nullptr ? nullptr : comm->communicator.get();
}

}  // namespace syncbn::api
