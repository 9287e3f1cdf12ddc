// The phases, one function of the C interface each.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_phases(nanobind::module_& module);

}  // namespace syncnorm::bindings
