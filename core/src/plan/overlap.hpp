// The rule that an output overlaps no other buffer of its call, except where syncnorm.h allows that
// the two are the same buffer. Throws Error(SYNCNORM_INVALID_ARGUMENT). Arguments have been
// validated otherwise.
#pragma once

#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

void check_overlap_normalize(const Problem&, const syncnorm_forward_args&);
void check_overlap_running(const Problem&, const syncnorm_forward_args&);
// The running statistics are inputs.
void check_overlap_infer(const Problem&, const syncnorm_forward_args&);
void check_overlap_backward(const Problem&, const syncnorm_backward_args&);

}  // namespace syncnorm
