// A stack to run on, and the switch between two of them.
#pragma once

#include <cstddef>
#include <optional>

#include "engine/observer.hpp"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

class Fibre {
 public:
  // The system's own stack, on which the caller runs.
  Fibre();
  // Starts in entry() when it is first switched to; entry never returns.
  Fibre(std::byte* stack, std::size_t size, void (*entry)(), const Observer* observer);
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // Leaves `from`, which is running, for this one. `for_good`: `from` is not switched to again.
  void switch_from(Fibre& from, bool for_good = false);
  // The first thing that entry() does; `from` is what was left for it.
  void entered(Fibre& from);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
#ifdef SIMT_ASAN
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  void* fake_stack_ = nullptr;
#endif
  const Observer* observer_ = nullptr;  // only for ThreadSanitizer
  std::optional<Observer> own_observer_;
};

}  // namespace simt
