// The NCCL communicators: made from an id, for all devices of the process, or borrowed.
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::bindings {

void bind_nccl(nanobind::module_& module);

}  // namespace syncbn::bindings
