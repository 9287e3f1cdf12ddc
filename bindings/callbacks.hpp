// Python callables behind the callback communicator of the C interface.
#pragma once

#include <nanobind/nanobind.h>

#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

namespace nb = nanobind;

// The context of one callback communicator. Its members are used under the GIL only.
struct PythonCallbacks {
  nb::object sum;
  nb::object split;                     // None: the group cannot be split
  nb::object abort;                     // None: there is nobody to tell
  PythonCallbacks* new_part = nullptr;  // made by the last split, for the handle that comes of it
};

// Functions of the C interface over `context`, which they own: release deletes it.
syncnorm_callbacks python_callbacks(PythonCallbacks* context) noexcept;

}  // namespace syncnorm::bindings
