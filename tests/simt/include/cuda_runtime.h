// Stands before the toolkit's header of this name: CUDA C++ as plain C++20.
#pragma once

#include <cuda_runtime_api.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __managed__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __launch_bounds__(...)
// A block runs on one thread of the system. By the tag its shared variables are found in the
// executable, to be filled with garbage before each block.
#define __shared__ static thread_local __attribute__((abi_tag("simt_shared")))

#include "simt/arithmetic.hpp"
#include "simt/atomics.hpp"
#include "simt/barriers.hpp"
#include "simt/dependency.hpp"
#include "simt/latency.hpp"
#include "simt/launch.hpp"
#include "simt/memory.hpp"
#include "simt/thread.hpp"
#include "simt/warp.hpp"
