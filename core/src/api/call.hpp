// What the entry functions of both passes share: reading the structs of a call.
#pragma once

#include <cstddef>

#include "api/guard.hpp"
#include "plan/problem.hpp"
#include "plan/validate.hpp"
#include "syncbn/syncbn.h"

namespace syncbn::api {

inline Problem read_problem(const syncbn_shape* shape, const syncbn_options* options) {
  return validate_problem(read_struct("shape", shape, syncbn_shape SYNCBN_SHAPE_INIT),
                          read_struct("options", options, syncbn_options SYNCBN_OPTIONS_INIT,
                                      offsetof(syncbn_options, in_place)));
}

inline syncbn_launch read_launch(const syncbn_launch* launch) {
  return read_struct("launch", launch, syncbn_launch SYNCBN_LAUNCH_INIT);
}

inline syncbn_forward_args read_args(const syncbn_forward_args* args) {
  return read_struct("args", args, syncbn_forward_args SYNCBN_FORWARD_ARGS_INIT);
}

inline syncbn_backward_args read_args(const syncbn_backward_args* args) {
  return read_struct("args", args, syncbn_backward_args SYNCBN_BACKWARD_ARGS_INIT);
}

}  // namespace syncbn::api
