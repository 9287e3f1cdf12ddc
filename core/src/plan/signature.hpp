// The 16-bit hash by which ranks find out that they are in different calls.
#pragma once

#include <cstdint>

#include "plan/problem.hpp"

namespace syncnorm {

enum class Pass : std::uint64_t { kForward = 1, kBackward = 3 };

// In [1, 65535], from the tag, the pass, C and the options that must agree on all ranks: not from
// dtype, layout, N, S, momentum or the variance factor, which may differ. The center wire's hash
// follows from that of the forward wire; the backward wire's also depends on `saved`.
double call_hash(const Problem& problem, Pass pass);

}  // namespace syncnorm
