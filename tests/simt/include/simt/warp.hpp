// Shuffles, votes and the barrier of a warp.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "simt/thread.hpp"

constexpr int warpSize = 32;

namespace simt {

struct Meeting {
  std::uint64_t value;  // what the source lane brought; all bits set if that lane did not come
  unsigned in_favour;   // lanes whose value was not zero
  unsigned came;        // lanes that took part
};
// Waits for the lanes of `mask` that have not exited.
SIMT_API Meeting warp_meeting(const char* call, unsigned mask, std::uint64_t value, int source,
                              const std::source_location& where);
SIMT_API int lane();

template <class T>
concept Shuffled = std::is_trivially_copyable_v<T> &&
                   (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2);  // __half, __nv_bfloat16

template <Shuffled T>
T shuffle(const char* call, unsigned mask, T value, int source, const std::source_location& where) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_meeting(call, mask, bits, source, where).value;
  T result;
  std::memcpy(static_cast<void*>(&result), &bits, sizeof(T));
  return result;
}

inline int segment_begin(int width) { return lane() & ~(width - 1); }
inline int segment_last(int width) { return lane() | (width - 1); }

}  // namespace simt

template <simt::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              std::source_location where = std::source_location::current()) {
  const int from = simt::segment_begin(width) + (source & (width - 1));
  return simt::shuffle("__shfl_sync", mask, value, from, where);
}
template <simt::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 std::source_location where = std::source_location::current()) {
  const int from = simt::lane() - static_cast<int>(delta);
  return simt::shuffle("__shfl_up_sync", mask, value,
                       from < simt::segment_begin(width) ? simt::lane() : from, where);
}
template <simt::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   std::source_location where = std::source_location::current()) {
  const int from = simt::lane() + static_cast<int>(delta);
  return simt::shuffle("__shfl_down_sync", mask, value,
                       from > simt::segment_last(width) ? simt::lane() : from, where);
}
template <simt::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize,
                  std::source_location where = std::source_location::current()) {
  const int from = simt::lane() ^ bits;
  return simt::shuffle("__shfl_xor_sync", mask, value,
                       from > simt::segment_last(width) ? simt::lane() : from, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return simt::warp_meeting("__ballot_sync", mask, predicate != 0, 0, where).in_favour;
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return simt::warp_meeting("__any_sync", mask, predicate != 0, 0, where).in_favour != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  const simt::Meeting m = simt::warp_meeting("__all_sync", mask, predicate != 0, 0, where);
  return m.in_favour == m.came;
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  simt::warp_meeting("__syncwarp", mask, 0, 0, where);
}
// Which lanes happen to run together is not defined: the least that CUDA promises.
inline unsigned __activemask() { return 1u << simt::lane(); }
