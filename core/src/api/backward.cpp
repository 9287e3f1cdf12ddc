#include "ops/backward.hpp"

#include "api/call.hpp"
#include "api/handle.hpp"

using namespace syncnorm::api;

extern "C" syncnorm_status syncnorm_grad_moments(const syncnorm_shape* shape,
                                                 const syncnorm_options* options,
                                                 const syncnorm_backward_args* args, double* wire,
                                                 const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::grad_moments(read_problem(shape, options), read_args(args), wire,
                           read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_grad_input(const syncnorm_shape* shape,
                                               const syncnorm_options* options,
                                               const syncnorm_backward_args* args,
                                               int64_t group_size, const double* wire,
                                               const double* total, const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::grad_input(read_problem(shape, options), read_args(args),
                         {group_size, wire, total, nullptr}, read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_infer_backward(const syncnorm_shape* shape,
                                                   const syncnorm_options* options,
                                                   const syncnorm_backward_args* args,
                                                   const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::infer_backward(read_problem(shape, options), read_args(args), read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_backward(const syncnorm_shape* shape,
                                             const syncnorm_options* options,
                                             const syncnorm_backward_args* args,
                                             syncnorm_comm* comm, const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::backward(read_problem(shape, options), read_args(args), optional_communicator(comm),
                       read_launch(launch));
  });
}
