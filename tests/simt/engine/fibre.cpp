#include "engine/fibre.hpp"

#include <cstdint>

namespace simt {
#if defined(__x86_64__)

// Saves what a function call must preserve on the stack that is left, and its address in *from.
extern "C" void simt_switch_stacks(void** from, void* to);
asm(R"(
.text
.hidden simt_switch_stacks
.globl simt_switch_stacks
.type simt_switch_stacks, @function
simt_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stacks, .-simt_switch_stacks
)");

#endif

Fibre::Fibre() {
#ifdef SIMT_TSAN
  observer_ = &own_observer_.emplace(__tsan_get_current_fiber());
#endif
}

Fibre::Fibre(std::byte* stack, std::size_t size, void (*entry)(), const Observer* observer)
    : observer_(observer) {
#if defined(__x86_64__)
  // Six registers, the address to return to, and 0 in place of a caller's.
  auto* top = reinterpret_cast<std::uintptr_t*>(stack + size) - 2;
  top[0] = reinterpret_cast<std::uintptr_t>(entry);
  top[1] = 0;
  stack_pointer_ = top - 6;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = size;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
#ifdef SIMT_ASAN
  bottom_ = stack;
  size_ = size;
#endif
}

// Not observed, as its return is seen by another observer than its call.
SIMT_NOT_OBSERVED void Fibre::switch_from(Fibre& from, [[maybe_unused]] bool for_good) {
#ifdef SIMT_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack_, bottom_, size_);
#endif
#ifdef SIMT_TSAN
  observer_->become();
#endif
#if defined(__x86_64__)
  simt_switch_stacks(&from.stack_pointer_, stack_pointer_);
#else
  swapcontext(&from.context_, &context_);
#endif
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Fibre::entered([[maybe_unused]] Fibre& from) {
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#endif
}

}  // namespace simt
