// The order of the steps of the forward pass. Each function validates, then hands over to a
// backend.
#pragma once

#include <cstdint>

#include "backend/backend.hpp"
#include "comm/communicator.hpp"
#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

void moments(const Problem&, const syncnorm_forward_args&, double* wire, double* local_var,
             const syncnorm_launch&);
void center(const Problem&, const Exchange&, const double* local_var, double* center_wire,
            const syncnorm_launch&);
void normalize(const Problem&, const syncnorm_forward_args&, const Exchange&,
               const syncnorm_launch&);
void update_running(const Problem&, const syncnorm_forward_args&, const Exchange&,
                    const syncnorm_launch&);
void add_wires(const GatheredWires&, double* total, const syncnorm_launch&);
void infer(const Problem&, const syncnorm_forward_args&, const syncnorm_launch&);

// comm == nullptr: a group of one.
void forward(const Problem&, const syncnorm_forward_args&, Communicator* comm,
             const syncnorm_launch&);

}  // namespace syncnorm
