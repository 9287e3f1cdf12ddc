// The first all-reduce of a new group, in which NCCL connects the ranks.
#pragma once

#include <memory>
#include <vector>

#include "comm/deadline.hpp"
#include "comm/nccl_connection.hpp"

namespace syncnorm::nccl {

// Makes one all-reduce on a stream of its own and waits until it is done, so that NCCL does not
// connect the ranks within a graph capture or behind the caller's work. Collective over the ranks
// of the group; `ranks` are those of this process. Throws what a sum would throw, and
// SYNCNORM_TIMEOUT at the deadline; then every connection in `ranks` has failed.
void connect(const std::vector<std::shared_ptr<Connection>>& ranks, const Deadline& deadline);

}  // namespace syncnorm::nccl
