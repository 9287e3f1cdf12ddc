// What the entry functions of both passes share: reading the structs of a call.
#pragma once

#include <cstddef>

#include "api/guard.hpp"
#include "plan/problem.hpp"
#include "plan/validate.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::api {

inline Problem read_problem(const syncnorm_shape* shape, const syncnorm_options* options) {
  return validate_problem(read_struct("shape", shape, syncnorm_shape SYNCNORM_SHAPE_INIT),
                          read_struct("options", options, syncnorm_options SYNCNORM_OPTIONS_INIT,
                                      offsetof(syncnorm_options, in_place)));
}

inline syncnorm_launch read_launch(const syncnorm_launch* launch) {
  return read_struct("launch", launch, syncnorm_launch SYNCNORM_LAUNCH_INIT);
}

inline syncnorm_forward_args read_args(const syncnorm_forward_args* args) {
  return read_struct("args", args, syncnorm_forward_args SYNCNORM_FORWARD_ARGS_INIT);
}

inline syncnorm_backward_args read_args(const syncnorm_backward_args* args) {
  return read_struct("args", args, syncnorm_backward_args SYNCNORM_BACKWARD_ARGS_INIT);
}

}  // namespace syncnorm::api
