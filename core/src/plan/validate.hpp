// Is this call allowed? Host only; throws Error(SYNCNORM_INVALID_ARGUMENT or SYNCNORM_UNSUPPORTED).
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

Problem validate_problem(const syncnorm_shape& shape, const syncnorm_options& options);

// Device, stream, workspace, threads; workspace_size: the bytes that are needed.
void validate_launch(const syncnorm_launch& launch, std::size_t workspace_size);

// All args that are set, also those of the later phases: an error after the all-reduce would leave
// the other ranks a call ahead. num_batches_tracked is read where it is in host memory, which
// `device` says.
void validate_moments(const Problem&, const syncnorm_forward_args&, syncnorm_device device);
void validate_normalize(const Problem&, const syncnorm_forward_args&, syncnorm_device device);
void validate_running(const Problem&, const syncnorm_forward_args&, syncnorm_device device);
void validate_infer(const Problem&, const syncnorm_forward_args&);

// As validate_moments; for all phases.
void validate_backward(const Problem&, const syncnorm_backward_args&);

// The vectors that travel: `wire` and `total` must be there and differ; group_size >= 1.
void validate_exchange(const void* wire, const void* total, std::int64_t group_size);
// The lengths of gathered wires: neither negative nor too many values in all.
void validate_gathered(std::int64_t ranks, std::int64_t length);
void validate_center_total(const Problem&, const void* center_total);

}  // namespace syncnorm
