#include "plan/validate.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

#include "plan/limits.hpp"
#include "plan/overlap.hpp"
#include "plan/support_table.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

constexpr std::uintptr_t kWorkspaceAlignment = 64;

// Enumerations arrive from C as any integer.
template <class Enum>
void check_choice(const char* name, Enum value, Enum last) {
  check(static_cast<unsigned>(value) <= static_cast<unsigned>(last), name, " is ",
        static_cast<unsigned>(value), "; expected a value from 0 to ", static_cast<unsigned>(last),
        " of its enumeration in syncnorm.h");
}

void check_size(const char* name, std::int64_t value) {
  check(value >= 0, "shape.", name, " is ", value, "; a size must not be negative");
}

void check_limits(const syncnorm_shape& shape) {
  check(fits({shape.n, shape.c, shape.s}), "shape (N, C, S) = (", shape.n, ", ", shape.c, ", ",
        shape.s, ") is too large; expected sizes with a product of at most 2^48 = ", kMaxValues,
        ", a size of 0 counted as 1");
}

// In place the activation is inverted.
void check_in_place(const syncnorm_options& options) {
  check(options.in_place == 0 || options.in_place == 1, "options.in_place is ", options.in_place,
        "; expected 0 or 1");
  if (options.in_place == 0) return;
  check(options.activation != SYNCNORM_RELU,
        "options.in_place is 1 and options.activation is relu, which cannot be inverted; expected "
        "identity, leaky_relu or elu, or in_place = 0");
  check(options.activation != SYNCNORM_LEAKY_RELU ||
            (options.negative_slope >= 0x1p-126 && options.negative_slope <= 0x1p126),
        "options.negative_slope is ", options.negative_slope,
        " and options.in_place is 1; expected a slope that can be divided by, from 2^-126 to "
        "2^126, or in_place = 0");
}

void check_options(const syncnorm_options& options) {
  check_choice("options.weighting", options.weighting, SYNCNORM_WEIGHT_BATCH);
  check_choice("options.eps_mode", options.eps_mode, SYNCNORM_EPS_MAX);
  check_choice("options.variance_factor", options.variance_factor, SYNCNORM_VARIANCE_UNBIASED_RANK);
  check_choice("options.grad_reduction", options.grad_reduction, SYNCNORM_GRAD_MEAN);
  check_choice("options.centering", options.centering, SYNCNORM_CENTER_OFF);
  check_choice("options.activation", options.activation, SYNCNORM_ELU);
  check(std::isfinite(options.eps) && options.eps >= 0, "options.eps is ", options.eps,
        "; expected a finite number >= 0, such as 1e-5");
  check(options.momentum == SYNCNORM_MOMENTUM_CUMULATIVE ||
            (options.momentum >= 0 && options.momentum <= 1),
        "options.momentum is ", options.momentum,
        "; expected 0 <= momentum <= 1 (running = (1 - momentum)*running + momentum*batch) or "
        "SYNCNORM_MOMENTUM_CUMULATIVE");
  check(options.activation != SYNCNORM_LEAKY_RELU ||
            (std::isfinite(options.negative_slope) && options.negative_slope >= 0),
        "options.negative_slope is ", options.negative_slope, "; expected a finite number >= 0");
  check_in_place(options);
}

void check_pointer(const char* name, const void* pointer, bool needed) {
  check(!needed || pointer != nullptr, name, " is NULL; a buffer is needed here");
}

void check_vector(const Problem& problem, const char* name, const syncnorm_vector& vector) {
  if (vector.data == nullptr) return;
  check(is_dtype(vector.dtype), name, ".dtype is ", static_cast<int>(vector.dtype),
        "; expected a syncnorm_dtype");
  const DtypeSupport& support = support_of(problem.dtype);
  check(support.parameters[static_cast<std::size_t>(vector.dtype)], name, " is ",
        support_of(vector.dtype).name, "; with ", support.name, " input it must be ",
        support.parameter_names);
}

void check_running_pair(const Problem& problem, const syncnorm_forward_args& args) {
  check((args.running_mean.data == nullptr) == (args.running_var.data == nullptr),
        "only one of running_mean and running_var is given; give both or neither");
  check_vector(problem, "running_mean", args.running_mean);
  check_vector(problem, "running_var", args.running_var);
}

void check_residual(const Problem& problem, const void* residual) {
  check(residual == nullptr || !problem.in_place(),
        "residual is given and options.in_place is 1; what is recovered from y would hold the "
        "residual too: pass NULL, or in_place = 0");
}

void check_affine(const Problem& problem, const syncnorm_vector& weight,
                  const syncnorm_vector& bias) {
  check_vector(problem, "weight", weight);
  check_vector(problem, "bias", bias);
}

}  // namespace

Problem validate_problem(const syncnorm_shape& shape, const syncnorm_options& options) {
  check_size("n", shape.n);
  check_size("c", shape.c);
  check_size("s", shape.s);
  check(is_dtype(shape.dtype), "shape.dtype is ", static_cast<int>(shape.dtype),
        "; expected SYNCNORM_FLOAT16, SYNCNORM_BFLOAT16, SYNCNORM_FLOAT32 or SYNCNORM_FLOAT64");
  check_choice("shape.layout", shape.layout, SYNCNORM_CHANNELS_LAST);
  check_limits(shape);
  check_options(options);
  return {shape.n, shape.c, shape.s, shape.dtype, shape.layout, options};
}

void validate_launch(const syncnorm_launch& launch, std::size_t workspace_size) {
  check_choice("launch.device", launch.device, SYNCNORM_CUDA);
  check(launch.workspace_size >= workspace_size, "launch.workspace_size is ", launch.workspace_size,
        " bytes; this call needs ", workspace_size, " (ask syncnorm_query_sizes)");
  check_pointer("launch.workspace", launch.workspace, workspace_size > 0);
  check(reinterpret_cast<std::uintptr_t>(launch.workspace) % kWorkspaceAlignment == 0,
        "launch.workspace is not aligned to ", kWorkspaceAlignment, " bytes");
  check(reinterpret_cast<std::uintptr_t>(launch.control) % kWorkspaceAlignment == 0,
        "launch.control is not aligned to ", kWorkspaceAlignment, " bytes");
  if (launch.device != SYNCNORM_CPU) return;
  check(launch.num_threads >= 1 && launch.num_threads <= kMaxThreads, "launch.num_threads is ",
        launch.num_threads, "; expected a number of threads from 1 to ", kMaxThreads);
  check(launch.stream == nullptr, "launch.stream is set but launch.device is the CPU; pass NULL");
}

namespace {

void check_running(const Problem& problem, const syncnorm_forward_args& args,
                   syncnorm_device device) {
  check_running_pair(problem, args);
  check(args.running_mean.data == nullptr || args.num_batches_tracked != nullptr ||
            problem.options.momentum != SYNCNORM_MOMENTUM_CUMULATIVE,
        "num_batches_tracked is NULL; the cumulative average (SYNCNORM_MOMENTUM_CUMULATIVE) needs "
        "it");
  if (args.running_mean.data == nullptr || args.num_batches_tracked == nullptr ||
      device != SYNCNORM_CPU)
    return;
  const std::int64_t batches = *args.num_batches_tracked;
  check(batches >= 0 && batches < std::numeric_limits<std::int64_t>::max(),
        "num_batches_tracked is ", batches,
        "; expected the number of batches so far, from 0 to 2^63 - 2: set it to 0 for statistics "
        "that have seen none");
}

}  // namespace

void validate_running(const Problem& problem, const syncnorm_forward_args& args,
                      syncnorm_device device) {
  check_running(problem, args, device);
  check_overlap_running(problem, args);
}

void validate_moments(const Problem& problem, const syncnorm_forward_args& args,
                      syncnorm_device device) {
  check_pointer("x", args.x, problem.size() > 0);
  check_residual(problem, args.residual);
  check_affine(problem, args.weight, args.bias);
  check_running(problem, args, device);
  check_overlap_normalize(problem, args);
}

void validate_normalize(const Problem& problem, const syncnorm_forward_args& args,
                        syncnorm_device device) {
  validate_moments(problem, args, device);
  check_pointer("y", args.y, problem.size() > 0);
}

void validate_infer(const Problem& problem, const syncnorm_forward_args& args) {
  check_pointer("x", args.x, problem.size() > 0);
  check_pointer("y", args.y, problem.size() > 0);
  check_residual(problem, args.residual);
  check_affine(problem, args.weight, args.bias);
  check_running_pair(problem, args);
  check_pointer("running_mean", args.running_mean.data, problem.c > 0);
  check_overlap_infer(problem, args);
}

void validate_backward(const Problem& problem, const syncnorm_backward_args& args) {
  check_pointer("x", args.x, problem.size() > 0);
  check_pointer("dy", args.dy, problem.size() > 0);
  check_pointer("saved", args.saved, true);
  check(args.y == nullptr || problem.options.activation != SYNCNORM_IDENTITY,
        "y is given but there is no activation; pass NULL");
  check(args.y == nullptr || !problem.in_place(),
        "y is given and options.in_place is 1; in place the forward's output is passed as x: pass "
        "NULL for y");
  check_affine(problem, args.weight, args.bias);
  check_vector(problem, "dweight", args.dweight);
  check_vector(problem, "dbias", args.dbias);
  check(args.dresidual == nullptr || !problem.in_place(),
        "dresidual is given and options.in_place is 1; in place there is no residual: pass NULL");
  check(args.dx == nullptr || args.dx != args.dresidual,
        "dx and dresidual are the same buffer; give each its own");
  check_overlap_backward(problem, args);
}

void validate_exchange(const void* wire, const void* total, std::int64_t group_size) {
  check_pointer("wire", wire, true);
  check_pointer("total", total, true);
  check(group_size >= 1 && group_size <= kMaxGroupSize, "group_size is ", group_size,
        "; expected the number of wires, from 1 to ", kMaxGroupSize);
  check(wire != total || group_size == 1,
        "total is the same buffer as wire; the sum must be out of place, both are needed");
}

void validate_gathered(std::int64_t ranks, std::int64_t length) {
  check(ranks >= 0, "ranks is ", ranks, "; expected the number of wires, >= 0");
  check(length >= 0, "length is ", length, "; expected the values of a wire, >= 0");
  check(fits({ranks, length}), "ranks is ", ranks, " and length is ", length,
        "; expected at most 2^48 = ", kMaxValues, " values in all");
}

void validate_center_total(const Problem& problem, const void* center_total) {
  check((center_total != nullptr) == problem.centered(),
        problem.centered()
            ? "center_total is NULL; with centring the sum of the center wires is needed here"
            : "center_total is given but centring is off for these options; pass NULL");
}

}  // namespace syncnorm
