// Loads and stores with a cache hint, and fences.
#pragma once

#include <cstdint>

#include "simt/latency.hpp"
#include "simt/thread.hpp"

namespace simt {

SIMT_API void device_fence();
// Lets the block's other threads run.
SIMT_API void nap();
[[noreturn]] SIMT_API void misaligned(const void* address, unsigned long alignment);

template <class T>
void check_alignment(const T* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignof(T) != 0) misaligned(address, alignof(T));
}
// Checks the alignment and leaves the thread's clock alone.
template <class T>
T load(const T* address) {
  check_alignment(address);
  return *address;
}
// The next instruction uses the value: one latency.
template <class T>
T load_and_await(const T* address) {
  await_load(issue_load());
  return load(address);
}
template <class T>
void store(T* address, const T& value) {
  check_alignment(address);
  *address = value;
}

}  // namespace simt

// clang-format off
template <class T> T __ldg(const T* address) { return simt::load_and_await(address); }
template <class T> T __ldca(const T* address) { return simt::load_and_await(address); }
template <class T> T __ldcg(const T* address) { return simt::load_and_await(address); }
template <class T> T __ldcs(const T* address) { return simt::load_and_await(address); }
template <class T> T __ldcv(const T* address) { return simt::load_and_await(address); }
template <class T> T __ldlu(const T* address) { return simt::load_and_await(address); }
template <class T> void __stcg(T* address, T value) { simt::store(address, value); }
template <class T> void __stcs(T* address, T value) { simt::store(address, value); }
template <class T> void __stwb(T* address, T value) { simt::store(address, value); }
template <class T> void __stwt(T* address, T value) { simt::store(address, value); }
// clang-format on

inline void __threadfence() { simt::device_fence(); }
inline void __threadfence_system() { simt::device_fence(); }
inline void __threadfence_block() {}  // orders nothing here: shared memory wants a barrier
inline void __nanosleep(unsigned) { simt::nap(); }
