// The functions `capabilities` and `version`.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_capabilities(nanobind::module_& module);

}  // namespace syncnorm::bindings
