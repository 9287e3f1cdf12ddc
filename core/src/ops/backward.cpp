#include "ops/backward.hpp"

#include "ops/workspace.hpp"
#include "plan/signature.hpp"
#include "plan/validate.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

const Backend& prepare(const Problem& problem, const syncnorm_backward_args& args,
                       const syncnorm_launch& launch) {
  const Backend& backend = backend_for(launch.device);
  validate_launch(launch, workspace_size(problem, backend));
  validate_backward(problem, args);
  return backend;
}

}  // namespace

void grad_moments(const Problem& problem, const syncnorm_backward_args& args, double* wire,
                  const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, args, launch);
  check(wire != nullptr, "wire is NULL; expected room for 2C + 2 float64 values");
  backend.grad_moments(problem, args, call_hash(problem, Pass::kBackward), wire, launch);
}

void grad_input(const Problem& problem, const syncnorm_backward_args& args,
                const Exchange& exchange, const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, args, launch);
  validate_exchange(exchange.wire, exchange.total, exchange.group_size);
  backend.grad_input(problem, args, exchange, launch);
}

void infer_backward(const Problem& problem, const syncnorm_backward_args& args,
                    const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, args, launch);
  backend.infer_backward(problem, args, wire_space(problem, backend, launch.workspace).wire,
                         launch);
}

void backward(const Problem& problem, const syncnorm_backward_args& args, Communicator* comm,
              const syncnorm_launch& launch) {
  const Backend& backend = prepare(problem, args, launch);
  const WireSpace space = wire_space(problem, backend, launch.workspace);
  const bool alone = comm == nullptr || comm->size() == 1;
  if (alone && backend.backward_alone(problem, args, space.wire, launch)) return;

  backend.grad_moments(problem, args, call_hash(problem, Pass::kBackward), space.wire, launch);
  const double* total = space.wire;
  if (!alone) {
    comm->sum(space.wire, space.total, BackwardWire::length(problem.c), launch.device,
              launch.stream);
    total = space.total;
  }
  backend.grad_input(problem, args, {alone ? 1 : comm->size(), space.wire, total, nullptr}, launch);
}

}  // namespace syncnorm
