// The launches that the backend is made of. All go to call.stream.
#pragma once

#include <cstdint>

#include "backend/backend.hpp"
#include "backend/cuda/call.hpp"
#include "backend/cuda/device/channel_arguments.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

void moments(const Call&, const void* x, const std::uint8_t* mask, const MomentsOutput&);
// y, and per channel as finish_forward.
void normalize(const Call&, const syncnorm_forward_args&, const ForwardChannels&);
void grad_moments(const Call&, const syncnorm_backward_args&, const BackwardChannels&, double hash,
                  double* wire);
// dx, dresidual, and per channel as finish_backward.
void grad_input(const Call&, const syncnorm_backward_args&, const BackwardChannels&);

// One small launch each, over the channels.
void empty_moments(const Call&, const std::uint8_t* mask, const MomentsOutput&);
void empty_grad_moments(const Call&, const double* saved, double hash, double* wire);
void center(const Call&, const Exchange&, const double* local_var, double* center_wire);
void add_wires(const GatheredWires&, double* total, const syncnorm_launch&);
void finish_forward(const Call&, const ForwardChannels&);    // saved, running statistics, status
void finish_backward(const Call&, const BackwardChannels&);  // dweight, dbias, status

// A group of one, every tensor read once; `output` and `wire` are room for the sums, and what
// `channels` reads. false: this call does not fit on the chip, and nothing was done.
bool forward_once(const Call&, const syncnorm_forward_args&, const MomentsOutput& output,
                  const ForwardChannels&);
bool backward_once(const Call&, const syncnorm_backward_args&, const BackwardChannels&, double hash,
                   double* wire);

}  // namespace syncnorm::cuda
