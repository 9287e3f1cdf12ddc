// A thread as ThreadSanitizer sees one; without it, nothing.
#pragma once

#include "engine/sanitizers.hpp"

namespace simt {

// A new one knows what its maker knew, and nothing more until it acquires a token.
class Observer {
 public:
#ifdef SIMT_TSAN
  Observer() : fibre_(__tsan_create_fiber(0)), owned_(true) {}
  explicit Observer(void* fibre) : fibre_(fibre), owned_(false) {}
  ~Observer() {
    if (owned_) __tsan_destroy_fiber(fibre_);
  }
  SIMT_NOT_OBSERVED void become() const {
    __tsan_switch_to_fiber(fibre_, __tsan_switch_to_fiber_no_sync);
  }
  template <class F>
  void observe(F&& what) const {
    const Observer self(__tsan_get_current_fiber());
    become();
    what();
    self.become();
  }
#else
  Observer() {}
  template <class F>
  void observe(F&&) const {}
#endif
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

 private:
#ifdef SIMT_TSAN
  void* fibre_;
  bool owned_;
#endif
};

}  // namespace simt
