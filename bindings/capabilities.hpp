// What was built and what was found.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_capabilities(nanobind::module_& module);

}  // namespace syncnorm::bindings
