// The functions that create NCCL communicators.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_nccl(nanobind::module_& module);

}  // namespace syncnorm::bindings
