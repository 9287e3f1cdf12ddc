// What was built and what was found.
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::bindings {

void bind_capabilities(nanobind::module_& module);

}  // namespace syncbn::bindings
