// What the kernels need to know of a call besides its tensors. Plain data: filled by the host.
// Pointers as in syncnorm.h.
#pragma once

#include <cstdint>

#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

// Where the values of a channel stand: value j of sample k of channel i is value (k*c + i)*s + j,
// and position k*s + j of a mask. Every position of channels last counts as a sample.
struct ChannelIndex {
  std::int64_t n, c, s;

  constexpr std::int64_t positions() const { return n * s; }
};

// What becomes of a rank's moments.
struct MomentsOutput {
  double* wire;
  double* local_var;    // or nullptr
  double* center_wire;  // of a group of one with centring; or nullptr
  double hash;
  double samples;
  syncnorm_weighting weighting;
};

// How statistics become outputs.
struct ForwardChannels {
  std::int64_t c;
  std::int64_t group_size;
  const double* wire;
  const double* total;         // nullptr: the running statistics are used, and stay
  const double* center_total;  // or nullptr
  syncnorm_vector weight, bias, running_mean, running_var;
  std::int64_t* num_batches_tracked;
  double* saved;
  std::int32_t* status;
  double eps, momentum;
  syncnorm_eps_mode eps_mode;
  syncnorm_variance_factor variance_factor;
  std::uint64_t tag;
  bool in_place;
};

// The forward pass's results, and what the backward pass makes of them.
struct BackwardChannels {
  std::int64_t c;
  std::int64_t group_size;
  const double* saved;
  const double* wire;
  const double* total;  // nullptr: the statistics were not the batch's, so dx does not depend on it
  syncnorm_vector weight, bias, dweight, dbias;
  syncnorm_grad_reduction reduction;
  std::int32_t* status;
  bool in_place;
};

}  // namespace syncnorm::cuda
