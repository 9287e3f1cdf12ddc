// Stands before the toolkit's header of this name: the groups of a whole cooperative grid and of a
// thread block cluster.
#pragma once

#include <source_location>
#include <type_traits>

#include "simt/barriers.hpp"
#include "simt/cluster.hpp"

namespace cooperative_groups {

class grid_group {
 public:
  bool is_valid() const { return simt::in_cooperative_launch(); }
  void sync(std::source_location where = std::source_location::current()) const {
    simt::grid_barrier(where);
  }
};

inline grid_group this_grid() { return {}; }

class cluster_group {
 public:
  void sync(std::source_location where = std::source_location::current()) const {
    simt::cluster_barrier(where);
  }
  unsigned block_rank() const { return simt::cluster_rank(); }
  unsigned num_blocks() const { return simt::cluster_size(); }
  unsigned thread_rank() const {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    return block_rank() * blockDim.x * blockDim.y * blockDim.z + thread;
  }
  unsigned num_threads() const { return num_blocks() * blockDim.x * blockDim.y * blockDim.z; }
  // Where a variable in shared memory is in the block of this rank.
  template <class T>
  T* map_shared_rank(T* address, unsigned rank) const {
    return static_cast<T*>(simt::map_shared(const_cast<std::remove_cv_t<T>*>(address), rank));
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
