// The NCCL communicators: made from an id, for all devices of the process, or borrowed.
#pragma once

#include <nanobind/nanobind.h>

namespace syncnorm::bindings {

void bind_nccl(nanobind::module_& module);

}  // namespace syncnorm::bindings
