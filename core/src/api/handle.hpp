// The C handle of a communicator.
#pragma once

#include <memory>

#include "comm/communicator.hpp"
#include "comm/home_process.hpp"
#include "syncnorm/syncnorm.h"

struct syncnorm_comm {
  std::unique_ptr<syncnorm::Communicator> communicator;
  syncnorm::HomeProcess home{};
};

namespace syncnorm::api {

// Throws in a forked child: the other ranks are elsewhere, and a lock may be held for ever.
void require_home(const syncnorm_comm& comm);

inline Communicator* optional_communicator(syncnorm_comm* comm) {
  if (comm == nullptr) return nullptr;
  if (comm->communicator->size() > 1) require_home(*comm);
  return comm->communicator.get();
}

}  // namespace syncnorm::api
