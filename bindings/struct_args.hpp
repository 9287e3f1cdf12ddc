// Fill the argument structs of the C interface from Python arguments that several functions share.
#pragma once

#include "arguments.hpp"

namespace syncnorm::bindings {

// Without y, mask and the running statistics.
inline syncnorm_forward_args forward_args(const Arguments& in, nb::handle saved, nb::handle weight,
                                          nb::handle bias, nb::handle residual) {
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.x = in.x();
  args.residual = in.optional_like_x(residual, "residual", Access::kRead);
  args.weight = in.vector(weight, "weight", Access::kRead);
  args.bias = in.vector(bias, "bias", Access::kRead);
  args.saved = in.optional_doubles(saved, "saved", in.sizes().saved_length, Access::kWrite);
  return args;
}

// For functions that write y.
inline syncnorm_forward_args normalizing(const Arguments& in, nb::handle y, nb::handle saved,
                                         nb::handle weight, nb::handle bias, nb::handle residual) {
  syncnorm_forward_args args = forward_args(in, saved, weight, bias, residual);
  args.y = in.like_x(y, "y", Access::kWrite);
  return args;
}

inline void set_running(syncnorm_forward_args& args, const Arguments& in, nb::handle mean,
                        nb::handle var, nb::handle num_batches_tracked) {
  args.running_mean = in.vector(mean, "running_mean", Access::kWrite);
  args.running_var = in.vector(var, "running_var", Access::kWrite);
  args.num_batches_tracked = in.counter(num_batches_tracked, "num_batches_tracked");
}

// The inputs of the backward functions.
inline syncnorm_backward_args differentiating(const Arguments& in, nb::handle dy, nb::handle saved,
                                              nb::handle weight, nb::handle bias, nb::handle y) {
  syncnorm_backward_args args = SYNCNORM_BACKWARD_ARGS_INIT;
  args.x = in.x();
  args.dy = in.like_x(dy, "dy", Access::kRead);
  args.y = in.optional_like_x(y, "y", Access::kRead);
  args.weight = in.vector(weight, "weight", Access::kRead);
  args.bias = in.vector(bias, "bias", Access::kRead);
  args.saved = in.doubles(saved, "saved", in.sizes().saved_length, Access::kRead);
  return args;
}

inline void set_gradients(syncnorm_backward_args& args, const Arguments& in, nb::handle dx,
                          nb::handle dresidual, nb::handle dweight, nb::handle dbias) {
  args.dx = in.optional_like_x(dx, "dx", Access::kWrite);
  args.dresidual = in.optional_like_x(dresidual, "dresidual", Access::kWrite);
  args.dweight = in.vector(dweight, "dweight", Access::kWrite);
  args.dbias = in.vector(dbias, "dbias", Access::kWrite);
}

}  // namespace syncnorm::bindings
