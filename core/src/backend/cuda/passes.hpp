// The launches that the backend is made of. All go to call.stream.
#pragma once

#include <cstdint>

#include "backend/backend.hpp"
#include "backend/cuda/call.hpp"
#include "backend/cuda/device/channel_arguments.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

void moments(const Call&, const void* x, const std::uint8_t* mask, const MomentsOutput&);
// y, and per channel as finish_forward. follows_moments: they are the launch before, of the same
// call.
void normalize(const Call&, const syncnorm_forward_args&, const ForwardChannels&,
               bool follows_moments);
void grad_moments(const Call&, const syncnorm_backward_args&, const BackwardChannels&, double hash,
                  double* wire);
// dx, dresidual, and per channel as finish_backward. follows_grad_moments: as above.
void grad_input(const Call&, const syncnorm_backward_args&, const BackwardChannels&,
                bool follows_grad_moments);

// One small launch each, over the channels.
void empty_moments(const Call&, const std::uint8_t* mask, const MomentsOutput&);
void empty_grad_moments(const Call&, const double* saved, double hash, double* wire);
void center(const Call&, const Exchange&, const double* local_var, double* center_wire);
void add_wires(const GatheredWires&, double* total, const syncnorm_launch&);
void finish_forward(const Call&, const ForwardChannels&);    // saved, running statistics, status
void finish_backward(const Call&, const BackwardChannels&);  // dweight, dbias, status

}  // namespace syncnorm::cuda
