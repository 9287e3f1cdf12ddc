// Ranks that are threads of this process.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.hpp"

namespace syncnorm {

// n handles over one group, host memory only; element i is rank i. A rank that waits longer than
// timeout_s fails the group with SYNCNORM_TIMEOUT; a handle that is destroyed fails it with
// SYNCNORM_RANK_LOST.
std::vector<std::unique_ptr<Communicator>> make_thread_group(int n, double timeout_s);

}  // namespace syncnorm
