// The order of the steps of the backward pass. Each function validates, then hands over to a
// backend.
#pragma once

#include "backend/backend.hpp"
#include "comm/communicator.hpp"
#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

void grad_moments(const Problem&, const syncnorm_backward_args&, double* wire,
                  const syncnorm_launch&);
void grad_input(const Problem&, const syncnorm_backward_args&, const Exchange&,
                const syncnorm_launch&);
void infer_backward(const Problem&, const syncnorm_backward_args&, const syncnorm_launch&);

// comm == nullptr: a group of one.
void backward(const Problem&, const syncnorm_backward_args&, Communicator* comm,
              const syncnorm_launch&);

}  // namespace syncnorm
