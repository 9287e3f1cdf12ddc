// The phases as handlers of XLA's foreign function interface, for JAX.
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::bindings {

void bind_xla_ffi(nanobind::module_& module);

}  // namespace syncbn::bindings
