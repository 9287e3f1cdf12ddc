// Programmatic dependent launch, on the device.
#pragma once

#include <source_location>

#include "simt/thread.hpp"

namespace simt {

SIMT_API void await_dependency(const std::source_location& where);

}  // namespace simt

inline void cudaGridDependencySynchronize(
    std::source_location where = std::source_location::current()) {
  simt::await_dependency(where);
}
// Any time before the end of the grid is allowed for the start of the next one: see README.md.
inline void cudaTriggerProgrammaticLaunchCompletion() {}
