// The work per channel between the passes over the tensor, on channels [begin, end).
#pragma once

#include <cstdint>

#include "backend/backend.hpp"
#include "backend/cpu/kernels.hpp"
#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cpu {

struct ChannelRange {
  std::int64_t begin;
  std::int64_t end;
};

inline ChannelRange all_channels(const Problem& problem) { return {0, problem.c}; }

// The number of values per channel that count.
double count_values(const Problem&, const std::uint8_t* mask);

void write_wire_header(const Problem&, double count, double hash, double* wire);
void write_wire(const Problem&, ChannelRange, const Moments*, double* wire, double* local_var);

void write_center_header(const Problem&, const Exchange&, double* center_wire);
void write_center(const Problem&, ChannelRange, const Exchange&, const double* local_var,
                  double* center_wire);

// The constants of normalize, and saved where it is wanted.
void write_saved_header(const Problem&, const Exchange&, double* saved);
void forward_constants(const Problem&, ChannelRange, const syncnorm_forward_args&, const Exchange&,
                       ForwardConstants*);
// The same from the running statistics.
void frozen_constants(const Problem&, const syncnorm_forward_args&, ForwardConstants*);

void update_running(const Problem&, ChannelRange, const syncnorm_forward_args&, const Exchange&);
// Whether anything counted in the group, so that the running statistics move.
bool updates_running(const syncnorm_forward_args&, const Exchange&);

// The same constants for the backward passes; in place with the origin of what those read.
void saved_constants(const Problem&, ChannelRange, const syncnorm_backward_args&,
                     ForwardConstants*);

void write_grad_wire_header(const syncnorm_backward_args&, double hash, double* wire);
void write_grad_wire(const Problem&, ChannelRange, const syncnorm_backward_args&, const GradSums*,
                     double* wire);
void backward_constants(const Problem&, ChannelRange, const syncnorm_backward_args&,
                        const Exchange&, BackwardConstants*);
// dweight and dbias as options.grad_reduction says.
void write_parameter_gradients(const Problem&, ChannelRange, const syncnorm_backward_args&,
                               syncnorm_grad_reduction, const Exchange&);

}  // namespace syncnorm::cpu
