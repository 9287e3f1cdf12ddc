// A grid: its blocks, one at a time, each on a thread of the system where it needs its own.
#pragma once

#include "engine/block.hpp"

namespace simt {

// Returns when the grid has ended; throws Fault.
void run_grid(const Grid& grid, std::uint64_t seed);

}  // namespace simt
