// The latest clock of all CUDA threads: see simt/latency.hpp.
#pragma once

#include <cstdint>

namespace simt {

void record_clock(std::uint32_t clock);

}  // namespace simt
