// The order of the steps of the forward pass. Each function validates, then hands over to a
// backend.
#pragma once

#include <cstdint>

#include "backend/backend.hpp"
#include "comm/communicator.hpp"
#include "plan/problem.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

void moments(const Problem&, const syncbn_forward_args&, double* wire, double* local_var,
             const syncbn_launch&);
void center(const Problem&, const Exchange&, const double* local_var, double* center_wire,
            const syncbn_launch&);
void normalize(const Problem&, const syncbn_forward_args&, const Exchange&, const syncbn_launch&);
void update_running(const Problem&, const syncbn_forward_args&, const Exchange&,
                    const syncbn_launch&);
void add_wires(const GatheredWires&, double* total, const syncbn_launch&);
void infer(const Problem&, const syncbn_forward_args&, const syncbn_launch&);

// comm == nullptr: a group of one.
void forward(const Problem&, const syncbn_forward_args&, Communicator* comm, const syncbn_launch&);

}  // namespace syncbn
