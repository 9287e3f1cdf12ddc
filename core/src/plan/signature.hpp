// The 16-bit hash by which ranks find out that they are in different calls.
#pragma once

#include <cstdint>

#include "plan/problem.hpp"

namespace syncnorm {

enum class Phase : std::uint64_t { kMoments = 1, kCenter = 2, kGradMoments = 3 };

// In [1, 65535], from the tag, the phase, C and the options that must agree on all ranks: not from
// dtype, layout, N, S, momentum or the variance factor, which may differ.
double call_hash(const Problem& problem, Phase phase, std::uint64_t tag);

}  // namespace syncnorm
