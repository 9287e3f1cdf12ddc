#include "ops/forward.hpp"

#include "api/call.hpp"
#include "api/handle.hpp"

using syncnorm::Exchange;
using namespace syncnorm::api;

extern "C" syncnorm_status syncnorm_moments(const syncnorm_shape* shape,
                                            const syncnorm_options* options,
                                            const syncnorm_forward_args* args, double* wire,
                                            double* local_var, const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::moments(read_problem(shape, options), read_args(args), wire, local_var,
                      read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_center(const syncnorm_shape* shape,
                                           const syncnorm_options* options, int64_t group_size,
                                           const double* wire, const double* total,
                                           const double* local_var, double* center_wire,
                                           const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::center(read_problem(shape, options), {group_size, wire, total, nullptr}, local_var,
                     center_wire, read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_normalize(const syncnorm_shape* shape,
                                              const syncnorm_options* options,
                                              const syncnorm_forward_args* args, int64_t group_size,
                                              const double* wire, const double* total,
                                              const double* center_total,
                                              const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::normalize(read_problem(shape, options), read_args(args),
                        {group_size, wire, total, center_total}, read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_update_running(const syncnorm_shape* shape,
                                                   const syncnorm_options* options,
                                                   const syncnorm_forward_args* args,
                                                   int64_t group_size, const double* wire,
                                                   const double* total, const double* center_total,
                                                   const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::update_running(read_problem(shape, options), read_args(args),
                             {group_size, wire, total, center_total}, read_launch(launch));
  });
}

extern "C" syncnorm_status syncnorm_add_wires(const double* gathered, int64_t ranks, int64_t length,
                                              double* total, const syncnorm_launch* launch) {
  return guarded(
      [&] { syncnorm::add_wires({gathered, ranks, length}, total, read_launch(launch)); });
}

extern "C" syncnorm_status syncnorm_infer(const syncnorm_shape* shape,
                                          const syncnorm_options* options,
                                          const syncnorm_forward_args* args,
                                          const syncnorm_launch* launch) {
  return guarded(
      [&] { syncnorm::infer(read_problem(shape, options), read_args(args), read_launch(launch)); });
}

extern "C" syncnorm_status syncnorm_forward(const syncnorm_shape* shape,
                                            const syncnorm_options* options,
                                            const syncnorm_forward_args* args, syncnorm_comm* comm,
                                            const syncnorm_launch* launch) {
  return guarded([&] {
    syncnorm::forward(read_problem(shape, options), read_args(args), optional_communicator(comm),
                      read_launch(launch));
  });
}
