#include "ops/forward.hpp"

#include "ops/workspace.hpp"
#include "plan/signature.hpp"
#include "plan/validate.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

// The half of a tag that numbers calls; the other names the layer.
constexpr std::uint64_t kCallBits = 0xffffffff;

const Backend& prepare(const Problem& problem, const syncnorm_launch& launch) {
  const Backend& backend = backend_for(launch.device);
  validate_launch(launch, workspace_size(problem, backend));
  return backend;
}

// For what works on the wires alone.
const Backend& prepare_without_workspace(const syncnorm_launch& launch) {
  const Backend& backend = backend_for(launch.device);
  validate_launch(launch, 0);
  return backend;
}

void validate_totals(const Problem& problem, const Exchange& exchange) {
  validate_exchange(exchange.wire, exchange.total, exchange.group_size);
  validate_center_total(problem, exchange.center_total);
}

// A group of one where the backend has no single pass: the wire is its own total.
void forward_phases_alone(const Problem& problem, const syncnorm_forward_args& args,
                          const Backend& backend, const WireSpace& space,
                          const syncnorm_launch& launch) {
  backend.moments(problem, args, call_hash(problem, Pass::kForward), space.wire, space.local_var,
                  launch);
  const Exchange first{1, space.wire, space.wire, nullptr};
  if (problem.centered())
    backend.center(problem, first, space.local_var, space.center_wire, launch);
  backend.normalize(problem, args, {1, space.wire, space.wire, space.center_wire}, launch);
}

}  // namespace

void moments(const Problem& problem, const syncnorm_forward_args& args, double* wire,
             double* local_var, const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, launch);
  validate_moments(problem, args, launch.device);
  check(wire != nullptr, "wire is NULL; expected room for 2C + 4 float64 values");
  backend.moments(problem, args, call_hash(problem, Pass::kForward), wire, local_var, launch);
}

void center(const Problem& problem, const Exchange& exchange, const double* local_var,
            double* center_wire, const syncnorm_launch& launch) {
  const Backend& backend = prepare_without_workspace(launch);
  check(problem.centered(),
        "centring is off for these options and this dtype; skip syncnorm_center, or set "
        "options.centering = SYNCNORM_CENTER_ON on every rank");
  validate_exchange(exchange.wire, exchange.total, exchange.group_size);
  check(local_var != nullptr, "local_var is NULL; pass what syncnorm_moments wrote");
  check(center_wire != nullptr, "center_wire is NULL; expected room for center_wire_length values");
  backend.center(problem, exchange, local_var, center_wire, launch);
}

void normalize(const Problem& problem, const syncnorm_forward_args& args, const Exchange& exchange,
               const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, launch);
  validate_normalize(problem, args, launch.device);
  validate_totals(problem, exchange);
  backend.normalize(problem, args, exchange, launch);
}

void update_running(const Problem& problem, const syncnorm_forward_args& args,
                    const Exchange& exchange, const syncnorm_launch& launch) {
  const Backend& backend = prepare_without_workspace(launch);
  validate_running(problem, args, launch.device);
  validate_totals(problem, exchange);
  backend.update_running(problem, args, exchange, launch);
}

void add_wires(const GatheredWires& wires, double* total, const syncnorm_launch& launch) {
  const Backend& backend = prepare_without_workspace(launch);
  validate_gathered(wires.ranks, wires.length);
  if (wires.length == 0) return;
  check(total != nullptr, "total is NULL; expected room for ", wires.length, " float64 values");
  check(wires.values != nullptr || wires.ranks == 0, "gathered is NULL; expected ", wires.ranks,
        " wires of ", wires.length, " float64 values, one after the other");
  check(total != wires.values, "total is gathered; expected another buffer");
  backend.add_wires(wires, total, launch);
}

void infer(const Problem& problem, const syncnorm_forward_args& args,
           const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, launch);
  validate_infer(problem, args);
  backend.infer(problem, args, launch);
}

void forward(const Problem& given, const syncnorm_forward_args& args, Communicator* comm,
             const syncnorm_launch& launch) {
  Problem problem = given;
  const Backend& backend = prepare(problem, launch);
  validate_normalize(problem, args, launch.device);
  const WireSpace space = wire_space(problem, backend, launch.workspace);
  if (comm == nullptr || comm->size() == 1) {
    const double hash = call_hash(problem, Pass::kForward);
    if (!backend.forward_alone(problem, args, space, hash, launch))
      forward_phases_alone(problem, args, backend, space, launch);
    return;
  }
  const bool counted = (problem.options.tag & kCallBits) == 0;
  if (counted) problem.options.tag += comm->passes() + 1;
  backend.moments(problem, args, call_hash(problem, Pass::kForward), space.wire, space.local_var,
                  launch);
  comm->sum(space.wire, space.total, ForwardWire::length(problem.c), launch.device, launch.stream);
  if (counted) comm->count_pass();  // a call that is refused has not taken place
  Exchange exchange{comm->size(), space.wire, space.total, nullptr};
  if (problem.centered()) {
    backend.center(problem, exchange, space.local_var, space.center_wire, launch);
    comm->sum(space.center_wire, space.center_total, problem.center_wire_length(), launch.device,
              launch.stream);
    exchange.center_total = space.center_total;
  }
  backend.normalize(problem, args, exchange, launch);
}

}  // namespace syncnorm
