// Barriers of a block. The default argument tells where in the source a thread waits: threads of a
// block that wait in different places are a fault.
#pragma once

#include <source_location>

#include "simt/thread.hpp"

namespace simt {

struct Votes {
  int in_favour;  // threads whose predicate was not zero
  int all;        // threads that came
};
SIMT_API Votes block_barrier(const char* call, bool predicate, const std::source_location& where);
SIMT_API void grid_barrier(const std::source_location& where);
SIMT_API bool in_cooperative_launch();

}  // namespace simt

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  simt::block_barrier("__syncthreads", false, where);
}
inline int __syncthreads_count(int predicate,
                               std::source_location where = std::source_location::current()) {
  return simt::block_barrier("__syncthreads_count", predicate != 0, where).in_favour;
}
inline int __syncthreads_or(int predicate,
                            std::source_location where = std::source_location::current()) {
  return simt::block_barrier("__syncthreads_or", predicate != 0, where).in_favour != 0;
}
inline int __syncthreads_and(int predicate,
                             std::source_location where = std::source_location::current()) {
  const simt::Votes votes = simt::block_barrier("__syncthreads_and", predicate != 0, where);
  return votes.in_favour == votes.all;
}
