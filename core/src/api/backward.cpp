#include "ops/backward.hpp"

#include "api/call.hpp"
#include "api/handle.hpp"

using namespace syncbn::api;

extern "C" syncbn_status syncbn_grad_moments(const syncbn_shape* shape,
                                             const syncbn_options* options,
                                             const syncbn_backward_args* args, double* wire,
                                             const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::grad_moments(read_problem(shape, options), read_args(args), wire, read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_grad_input(const syncbn_shape* shape, const syncbn_options* options,
                                           const syncbn_backward_args* args, int64_t group_size,
                                           const double* wire, const double* total,
                                           const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::grad_input(read_problem(shape, options), read_args(args),
                       {group_size, wire, total, nullptr}, read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_infer_backward(const syncbn_shape* shape,
                                               const syncbn_options* options,
                                               const syncbn_backward_args* args,
                                               const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::infer_backward(read_problem(shape, options), read_args(args), read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_backward(const syncbn_shape* shape, const syncbn_options* options,
                                         const syncbn_backward_args* args, syncbn_comm* comm,
                                         const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::backward(read_problem(shape, options), read_args(args), optional_communicator(comm),
                     read_launch(launch));
  });
}
