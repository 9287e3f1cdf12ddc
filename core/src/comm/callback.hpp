// A communicator over functions that the trainer passes in.
#pragma once

#include <memory>

#include "comm/communicator.hpp"

namespace syncnorm {

// Owns callbacks.context from here on: release is called once, when the handle is destroyed. Where
// the arguments are refused nothing is owned and release is not called. abort() makes later calls
// fail; it cannot interrupt a callback that is running.
std::unique_ptr<Communicator> make_callback_communicator(int rank, int size,
                                                         const syncnorm_callbacks& callbacks);

}  // namespace syncnorm
