// Stands before the toolkit's header of this name: the group of a whole cooperative grid.
#pragma once

#include <source_location>

#include "simt/barriers.hpp"

namespace cooperative_groups {

class grid_group {
 public:
  bool is_valid() const { return simt::in_cooperative_launch(); }
  void sync(std::source_location where = std::source_location::current()) const {
    simt::grid_barrier(where);
  }
};

inline grid_group this_grid() { return {}; }

}  // namespace cooperative_groups
