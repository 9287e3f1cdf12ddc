// Parts of messages.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace simt {

bool same_place(const char* call, const std::source_location& where, const char* other_call,
                const std::source_location& other);
std::string hex(std::uint64_t value);
// "__syncthreads at kernel.cu:12"
std::string describe(const char* call, const std::source_location& where);

// "threads 0-15, 32", of numbers that rise
std::string describe_threads(const std::vector<int>& numbers);

}  // namespace simt
