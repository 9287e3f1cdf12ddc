#include "ops/forward.hpp"

#include "api/call.hpp"
#include "api/handle.hpp"

using syncbn::Exchange;
using namespace syncbn::api;

extern "C" syncbn_status syncbn_moments(const syncbn_shape* shape, const syncbn_options* options,
                                        const syncbn_forward_args* args, double* wire,
                                        double* local_var, const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::moments(read_problem(shape, options), read_args(args), wire, local_var,
                    read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_center(const syncbn_shape* shape, const syncbn_options* options,
                                       int64_t group_size, const double* wire, const double* total,
                                       const double* local_var, double* center_wire,
                                       const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::center(read_problem(shape, options), {group_size, wire, total, nullptr}, local_var,
                   center_wire, read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_normalize(const syncbn_shape* shape, const syncbn_options* options,
                                          const syncbn_forward_args* args, int64_t group_size,
                                          const double* wire, const double* total,
                                          const double* center_total, const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::normalize(read_problem(shape, options), read_args(args),
                      {group_size, wire, total, center_total}, read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_update_running(const syncbn_shape* shape,
                                               const syncbn_options* options,
                                               const syncbn_forward_args* args, int64_t group_size,
                                               const double* wire, const double* total,
                                               const double* center_total,
                                               const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::update_running(read_problem(shape, options), read_args(args),
                           {group_size, wire, total, center_total}, read_launch(launch));
  });
}

extern "C" syncbn_status syncbn_add_wires(const double* gathered, int64_t ranks, int64_t length,
                                          double* total, const syncbn_launch* launch) {
  return guarded([&] { syncbn::add_wires({gathered, ranks, length}, total, read_launch(launch)); });
}

extern "C" syncbn_status syncbn_infer(const syncbn_shape* shape, const syncbn_options* options,
                                      const syncbn_forward_args* args,
                                      const syncbn_launch* launch) {
  return guarded(
      [&] { syncbn::infer(read_problem(shape, options), read_args(args), read_launch(launch)); });
}

extern "C" syncbn_status syncbn_forward(const syncbn_shape* shape, const syncbn_options* options,
                                        const syncbn_forward_args* args, syncbn_comm* comm,
                                        const syncbn_launch* launch) {
  return guarded([&] {
    syncbn::forward(read_problem(shape, options), read_args(args), optional_communicator(comm),
                    read_launch(launch));
  });
}
