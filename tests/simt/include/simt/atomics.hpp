// Atomic operations: relaxed, as on the device. What they order is for simt::AtomicAccess to say.
#pragma once

#include <atomic>
#include <concepts>
#include <type_traits>

#include "simt/thread.hpp"

namespace simt {

// Another thread may run before it; under ThreadSanitizer, what the block has fenced is published
// to whoever uses the address next, and what others have published there is received.
class SIMT_API AtomicAccess {
 public:
  explicit AtomicAccess(void* address);
  ~AtomicAccess();
  AtomicAccess(const AtomicAccess&) = delete;
  AtomicAccess& operator=(const AtomicAccess&) = delete;

 private:
  void* address_;
};

template <class T, class... Kinds>
concept OneOf = (std::same_as<T, Kinds> || ...);
template <class T>
concept AtomicInteger = OneOf<T, int, unsigned, unsigned long long>;
template <class T>
concept Atomic = AtomicInteger<T> || OneOf<T, float, double>;

// *address = next(*address); returns the old value.
template <class T, class Next>
T update(T* address, Next next) {
  const AtomicAccess access(address);
  std::atomic_ref<T> word(*address);
  T old = word.load(std::memory_order_relaxed);
  while (!word.compare_exchange_weak(old, next(old), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace simt

template <simt::Atomic T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return static_cast<T>(old + value); });
}
template <simt::OneOf<int, unsigned> T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return static_cast<T>(old - value); });
}
template <simt::OneOf<int, unsigned, unsigned long long, float> T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T) { return value; });
}
template <simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old == expected ? value : old; });
}
template <simt::OneOf<int, unsigned, long long, unsigned long long> T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old < value ? value : old; });
}
template <simt::OneOf<int, unsigned, long long, unsigned long long> T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return value < old ? value : old; });
}
template <simt::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old & value; });
}
template <simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return simt::update(address, [=](T old) { return old | value; });
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return simt::update(address, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned last) {
  return simt::update(address,
                      [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}
