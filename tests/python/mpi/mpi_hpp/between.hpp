// What stands between the program and MPI, through MPI's profiling interface.
#pragma once

#include <atomic>

namespace between {

extern int communicators;                // made and not freed, by syncnorm and by the scenarios
extern std::atomic<int> all_reductions;  // begun so far
extern std::atomic<int> failing;         // if > 0: the all-reduction of that number fails

}  // namespace between
