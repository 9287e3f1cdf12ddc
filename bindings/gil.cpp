#include "gil.hpp"

#include <pthread.h>
#include <unistd.h>

#include <exception>

#include "errors.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {
namespace {

// The thread that runs Python's signal handlers. After a fork it is the one that forked.
unsigned long main_thread = 0;

void become_main_thread() { main_thread = PyThread_get_thread_ident(); }

// Set with the GIL held while the interpreter finalizes, which only one thread can do.
thread_local bool finalizes = false;

// Py_IsInitialized turns false when finalization begins, and needs no GIL.
void park_if_finalizing() noexcept {
  if (!Py_IsInitialized() && !finalizes) park_thread();
}

int run_signal_handlers() {
  const AcquiredGil acquired;
  if (PyErr_CheckSignals() == 0) return 0;
  try {
    nb::raise_python_error();
  } catch (...) {
    keep_exception(std::current_exception());
  }
  return 1;
}

}  // namespace

void park_thread() noexcept {
  for (;;) pause();
}

ReleasedGil::ReleasedGil() noexcept {
  if (!Py_IsInitialized()) finalizes = true;
  state_ = PyEval_SaveThread();
}

ReleasedGil::~ReleasedGil() {
  park_if_finalizing();
  park_at_exit([this] { PyEval_RestoreThread(state_); });
}

AcquiredGil::AcquiredGil() noexcept {
  park_if_finalizing();
  state_ = park_at_exit([] { return PyGILState_Ensure(); });
}

SignalCheck::SignalCheck() noexcept : installed_(PyThread_get_thread_ident() == main_thread) {
  if (installed_) previous_ = syncnorm_set_interrupt_check(&run_signal_handlers);
}

SignalCheck::~SignalCheck() {
  if (installed_) syncnorm_set_interrupt_check(previous_);
}

void find_main_thread() {
  const nb::object thread = nb::module_::import_("threading").attr("main_thread")();
  main_thread = nb::cast<unsigned long>(thread.attr("ident"));
  pthread_atfork(nullptr, nullptr, become_main_thread);
}

}  // namespace syncnorm::bindings
