// Adapts Python callables to the callback communicator of the C interface.
#pragma once

#include <nanobind/nanobind.h>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

// The context of one callback communicator. Access needs the GIL.
struct PythonCallbacks {
  nb::object sum;
  nb::object split = nb::none();
  nb::object abort = nb::none();
  PythonCallbacks* new_part = nullptr;  // context of the last split, until its handle takes it
};

// Return `object`, or raise ArgumentTypeError if it cannot be called.
nb::object require_callable(nb::handle object, const char* name);
nb::object optional_callable(nb::handle object, const char* name);  // also None

// Returns callbacks that own `context`: release deletes it.
syncnorm_callbacks python_callbacks(PythonCallbacks* context) noexcept;

}  // namespace syncnorm::bindings
