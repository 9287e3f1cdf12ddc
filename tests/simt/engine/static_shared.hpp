// How much static shared memory a kernel has.
#pragma once

#include <cstddef>
#include <optional>

namespace simt {

// The bytes of the __shared__ variables of a kernel and of all functions that it may call, which
// are read from the relocations of its module. None where the module has no relocations.
std::optional<std::size_t> static_shared_bytes(const void* kernel);

}  // namespace simt
