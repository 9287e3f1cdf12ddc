// The C handle of a communicator.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "syncnorm/syncnorm.h"

struct syncnorm_comm {
  std::unique_ptr<syncnorm::Communicator> communicator;
};

namespace syncnorm::api {

inline Communicator* optional_communicator(syncnorm_comm* comm) {
  return comm == nullptr ? nullptr : comm->communicator.get();
}

}  // namespace syncnorm::api
