// The order of the steps of the backward pass. Each function validates, then hands over to a
// backend.
#pragma once

#include "backend/backend.hpp"
#include "comm/communicator.hpp"
#include "plan/problem.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

void grad_moments(const Problem&, const syncbn_backward_args&, double* wire, const syncbn_launch&);
void grad_input(const Problem&, const syncbn_backward_args&, const Exchange&, const syncbn_launch&);
void infer_backward(const Problem&, const syncbn_backward_args&, const syncbn_launch&);

// comm == nullptr: a group of one.
void backward(const Problem&, const syncbn_backward_args&, Communicator* comm,
              const syncbn_launch&);

}  // namespace syncbn
