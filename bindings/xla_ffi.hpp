// The phases as handlers of XLA's foreign function interface, for JAX.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_xla_ffi(nanobind::module_& module);

}  // namespace syncnorm::bindings
