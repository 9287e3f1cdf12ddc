// A clock for each CUDA thread, in units of one global memory latency: the length of its longest
// chain of dependent loads. It knows nothing of throughput.
#pragma once

#include <cstdint>

#include "simt/thread.hpp"

namespace simt {

// Returns the time at which a load issued now arrives. Loads issued together arrive together.
SIMT_API std::uint32_t issue_load();
// The thread uses the value of a load: its clock is at least `arrives` from now on.
SIMT_API void await_load(std::uint32_t arrives);

}  // namespace simt
