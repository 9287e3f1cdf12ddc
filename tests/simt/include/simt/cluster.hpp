// Thread block clusters, on the device. A launch without the attribute has clusters of one block.
#pragma once

#include <source_location>

#include "simt/thread.hpp"

namespace simt {

SIMT_API void cluster_barrier(const std::source_location& where);
SIMT_API unsigned cluster_rank();
SIMT_API unsigned cluster_size();
SIMT_API void* map_shared(void* address, unsigned rank);

}  // namespace simt
