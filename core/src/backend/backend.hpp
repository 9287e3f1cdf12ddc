// The backend port: the work of one rank between the exchanges. Arguments have been validated.
//
// Contract: nothing is allocated on a device and nothing waits for one; work goes to launch.stream.
// A backend throws Error. `scratch` is launch.workspace: scratch_size() bytes with any content.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/problem.hpp"
#include "support/cuda_devices.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

// What the ranks sent and what came back.
struct Exchange {
  std::int64_t group_size;
  const double* wire;
  const double* total;
  const double* center_total;  // nullptr without centring, and in backward
};

// The wires of a group, one after the other: values[rank][i].
struct GatheredWires {
  const double* values;
  std::int64_t ranks;
  std::int64_t length;  // of each
};

// Room for the wires of a one-call forward; the last three only with centring.
struct WireSpace {
  double* wire;
  double* total;
  double* local_var;
  double* center_wire;
  double* center_total;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::size_t scratch_size(const Problem&) const = 0;

  virtual void moments(const Problem&, const syncnorm_forward_args&, double hash, double* wire,
                       double* local_var, const syncnorm_launch&) const = 0;
  virtual void center(const Problem&, const Exchange&, const double* local_var, double* center_wire,
                      const syncnorm_launch&) const = 0;
  virtual void normalize(const Problem&, const syncnorm_forward_args&, const Exchange&,
                         const syncnorm_launch&) const = 0;
  virtual void update_running(const Problem&, const syncnorm_forward_args&, const Exchange&,
                              const syncnorm_launch&) const = 0;
  virtual void grad_moments(const Problem&, const syncnorm_backward_args&, double hash,
                            double* wire, const syncnorm_launch&) const = 0;
  virtual void grad_input(const Problem&, const syncnorm_backward_args&, const Exchange&,
                          const syncnorm_launch&) const = 0;

  // In the order of the ranks; without any, zeros.
  virtual void add_wires(const GatheredWires&, double* total, const syncnorm_launch&) const = 0;

  virtual void infer(const Problem&, const syncnorm_forward_args&,
                     const syncnorm_launch&) const = 0;
  virtual void infer_backward(const Problem&, const syncnorm_backward_args&, double* wire,
                              const syncnorm_launch&) const = 0;

  // A group of one: both passes without an exchange between them, with the bits of the phases.
  // Returns false where the backend has no better way than the phases; then nothing was done.
  virtual bool forward_alone(const Problem&, const syncnorm_forward_args&, const WireSpace&,
                             double hash, const syncnorm_launch&) const = 0;
  virtual bool backward_alone(const Problem&, const syncnorm_backward_args&, double* wire,
                              const syncnorm_launch&) const = 0;
};

const Backend& cpu_backend();
const Backend& cuda_backend();  // backend/none answers where CUDA was not built

bool cuda_built() noexcept;
CudaDevices cuda_devices();

// Throws SYNCNORM_UNSUPPORTED where the device's backend was not built.
const Backend& backend_for(syncnorm_device device);

}  // namespace syncnorm
