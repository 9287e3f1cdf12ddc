// Is this call allowed? Host only; throws Error(SYNCBN_INVALID_ARGUMENT or SYNCBN_UNSUPPORTED).
#pragma once

#include <cstddef>

#include "plan/problem.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

Problem validate_problem(const syncbn_shape& shape, const syncbn_options& options);

// Device, stream, workspace, threads; workspace_size: the bytes that are needed.
void validate_launch(const syncbn_launch& launch, std::size_t workspace_size);

void validate_moments(const Problem&, const syncbn_forward_args&);
void validate_normalize(const Problem&, const syncbn_forward_args&);
void validate_running(const Problem&, const syncbn_forward_args&);
void validate_infer(const Problem&, const syncbn_forward_args&);

enum class BackwardPhase { kGradMoments, kGradInput, kBoth, kInfer };
void validate_backward(const Problem&, const syncbn_backward_args&, BackwardPhase);

// The vectors that travel: `wire` and `total` must be there and differ; group_size >= 1.
void validate_exchange(const void* wire, const void* total, std::int64_t group_size);
void validate_center_total(const Problem&, const void* center_total);

}  // namespace syncbn
