// Release and acquire the GIL around calls that wait, safe for daemon threads at exit.
//
// Once the interpreter finalizes, a thread must not run Python again. Python before 3.14 ends a
// thread that acquires the GIL by then with pthread_exit, which unwinds its stack: C++ destructors
// on it would use Python without the GIL. Here such a thread is parked until the process ends.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace syncnorm::bindings {

namespace nb = nanobind;

[[noreturn]] void park_thread() noexcept;

// Calls a function of Python's C API that may acquire the GIL. No C++ frame of ours may be inside.
template <class Call>
auto park_at_exit(Call&& call) {
#if defined(__GLIBCXX__)
  try {
    return call();
  } catch (abi::__forced_unwind&) {
    park_thread();
  }
#else
  return call();
#endif
}

class ReleasedGil {
 public:
  ReleasedGil() noexcept;
  ~ReleasedGil();
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

class AcquiredGil {
 public:
  AcquiredGil() noexcept;
  ~AcquiredGil() { PyGILState_Release(state_); }
  AcquiredGil(const AcquiredGil&) = delete;
  AcquiredGil& operator=(const AcquiredGil&) = delete;

 private:
  PyGILState_STATE state_;
};

// Calls `callable` from C++ code that Python called. Raises its exception.
template <class... Objects>
nb::object call_python(nb::handle callable, const Objects&... objects) {
  PyObject* result = park_at_exit(
      [&] { return PyObject_CallFunctionObjArgs(callable.ptr(), objects.ptr()..., nullptr); });
  if (result == nullptr) nb::raise_python_error();
  return nb::steal(result);
}

// Installs, in the main thread, the check that runs Python's signal handlers while a call waits. An
// exception of a handler ends the wait, and check_status raises it.
class SignalCheck {
 public:
  SignalCheck() noexcept;
  ~SignalCheck();
  SignalCheck(const SignalCheck&) = delete;
  SignalCheck& operator=(const SignalCheck&) = delete;

 private:
  bool installed_;
  int (*previous_)() = nullptr;
};

// Finds the main thread. Called once, when the module is imported.
void find_main_thread();

}  // namespace syncnorm::bindings
