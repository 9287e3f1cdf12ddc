// The functions without wire arguments: forward, backward, infer and infer_backward.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_one_call(nanobind::module_& module);

}  // namespace syncnorm::bindings
