// The __shared__ variables of the kernels in this process.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace simt {

constexpr int kGarbage = 0xff;  // NaN in floating point, -1 in integers

// Fills those of the calling thread, so that a kernel which reads before it writes is seen to.
void fill_shared_variables();
// Where those of the calling thread are, since it has filled them. Of two threads that fill them
// the order is the same.
const std::vector<std::span<std::byte>>& shared_variables();
// Whether an address is in one of those of the calling thread, which has filled them.
bool is_shared_variable(const void* address);

}  // namespace simt
