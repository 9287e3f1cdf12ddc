// The CPU backend: which pass, with which constants, in which order.
#include <algorithm>

#include "backend/backend.hpp"
#include "backend/cpu/channels.hpp"
#include "backend/cpu/dispatch.hpp"
#include "backend/cpu/planes.hpp"
#include "backend/cpu/rows.hpp"
#include "backend/cpu/scratch.hpp"
#include "backend/cpu/thread_pool.hpp"
#include "math/channel.hpp"
#include "math/statistics.hpp"
#include "math/wire.hpp"
#include "support/error.hpp"

namespace syncnorm::cpu {
namespace {

// One call: its scratch, and the passes of the layout at hand.
struct Call {
  const Problem& problem;
  const syncnorm_launch& launch;
  Carver carver{launch.workspace};
  ChannelScratch channels{carver, problem.c};

  int threads() const { return launch.num_threads; }

  // visit(passes) with a PlanePasses or a RowPasses.
  template <class Visit>
  void with_passes(const std::uint8_t* mask, Visit&& visit) const {
    if (is_rows(problem))
      visit(rows(mask));
    else
      visit(planes());
  }
  // One pass at a time: each takes the same memory after the channels.
  RowPasses rows(const std::uint8_t* mask) const {
    Carver rest = carver;
    return {problem, kernels_for(problem), rest, mask != nullptr};
  }
  PlanePasses planes() const {
    Carver rest = carver;
    return {problem, kernels_for(problem), PlaneScratch(rest, plane_view(problem))};
  }
};

GradInputs inputs(const syncnorm_backward_args& args) { return {args.x, args.dy, args.y}; }
GradOutputs outputs(const syncnorm_backward_args& args) { return {args.dx, args.dresidual}; }

void require(bool agreement, std::int64_t group_size, const syncnorm_launch& launch) {
  if (agreement) return;
  if (launch.status != nullptr) *launch.status = SYNCNORM_DESYNC;
  fail(SYNCNORM_DESYNC, "the ", group_size,
       " ranks of the group are not in the same call: they differ in the layer (tag), in the "
       "forward pass that a backward pass belongs to, in the operation, in the number of channels, "
       "or in options that must agree (eps, eps_mode, weighting, grad_reduction, centering, "
       "activation, in_place); or the sum is not that of ",
       group_size, " ranks. Check that every rank runs the same layers in the same order");
}

void require_agreement(const Exchange& exchange, const syncnorm_launch& launch) {
  require(hashes_agree(exchange.wire, exchange.total, exchange.center_total, exchange.group_size),
          exchange.group_size, launch);
}

void grad_sums(const Call& call, const syncnorm_backward_args& args) {
  saved_constants(call.problem, all_channels(call.problem), args, call.channels.forward);
  call.with_passes(nullptr, [&](const auto& passes) {
    passes.grad_moments(call.threads(), inputs(args), call.channels.forward, call.channels.sums);
  });
}

void gradients(const Call& call, const syncnorm_backward_args& args, bool frozen) {
  if (args.dx == nullptr && args.dresidual == nullptr) return;
  call.with_passes(args.mask, [&](const auto& passes) {
    passes.grad_input(call.threads(), inputs(args), outputs(args), args.mask, call.channels.forward,
                      call.channels.backward, frozen);
  });
}

class CpuBackend final : public Backend {
 public:
  std::size_t scratch_size(const Problem& problem) const override {
    return cpu::scratch_size(problem);
  }

  void moments(const Problem& problem, const syncnorm_forward_args& args, double hash, double* wire,
               double* local_var, const syncnorm_launch& launch) const override {
    Call call{problem, launch};
    const double count = count_values(problem, args.mask);
    Moments* moments = call.channels.moments;
    if (is_rows(problem))
      call.rows(args.mask).moments(call.threads(), args.x, args.mask, count, moments);
    else
      call.planes().moments(call.threads(), args.x, args.mask, moments);
    write_wire_header(problem, count, hash, wire);
    write_wire(problem, all_channels(problem), moments, wire, local_var);
  }

  void center(const Problem& problem, const Exchange& exchange, const double* local_var,
              double* center_wire, const syncnorm_launch& launch) const override {
    require_agreement(exchange, launch);
    write_center_header(problem, exchange, center_wire);
    write_center(problem, all_channels(problem), exchange, local_var, center_wire);
  }

  void normalize(const Problem& problem, const syncnorm_forward_args& args,
                 const Exchange& exchange, const syncnorm_launch& launch) const override {
    require_agreement(exchange, launch);
    Call call{problem, launch};
    if (args.saved != nullptr) write_saved_header(problem, exchange, args.saved);
    forward_constants(problem, all_channels(problem), args, exchange, call.channels.forward);
    if (updates_running(args, exchange)) update_all_running(problem, args, exchange);
    call.with_passes(nullptr, [&](const auto& passes) {
      passes.normalize(call.threads(), args, call.channels.forward);
    });
  }

  void update_running(const Problem& problem, const syncnorm_forward_args& args,
                      const Exchange& exchange, const syncnorm_launch& launch) const override {
    require_agreement(exchange, launch);
    if (updates_running(args, exchange)) update_all_running(problem, args, exchange);
  }

  void add_wires(const GatheredWires& wires, double* total, const syncnorm_launch&) const override {
    if (wires.ranks > 0)
      std::copy_n(wires.values, wires.length, total);
    else
      std::fill_n(total, wires.length, 0.0);
    for (std::int64_t rank = 1; rank < wires.ranks; ++rank) {
      const double* wire = wires.values + rank * wires.length;
      for (std::int64_t i = 0; i < wires.length; ++i) total[i] += wire[i];
    }
  }

  void grad_moments(const Problem& problem, const syncnorm_backward_args& args, double hash,
                    double* wire, const syncnorm_launch& launch) const override {
    Call call{problem, launch};
    grad_sums(call, args);
    write_grad_wire_header(args, hash, wire);
    write_grad_wire(problem, all_channels(problem), args, call.channels.sums, wire);
  }

  void grad_input(const Problem& problem, const syncnorm_backward_args& args,
                  const Exchange& exchange, const syncnorm_launch& launch) const override {
    require(hashes_agree(exchange.wire[BackwardWire::kHash], exchange.total, BackwardWire::kHash,
                         exchange.group_size),
            exchange.group_size, launch);
    Call call{problem, launch};
    const ChannelRange all = all_channels(problem);
    saved_constants(problem, all, args, call.channels.forward);
    backward_constants(problem, all, args, exchange, call.channels.backward);
    gradients(call, args, false);
    write_parameter_gradients(problem, all, args, problem.options.grad_reduction, exchange);
  }

  void infer(const Problem& problem, const syncnorm_forward_args& args,
             const syncnorm_launch& launch) const override {
    Call call{problem, launch};
    frozen_constants(problem, args, call.channels.forward);
    call.with_passes(nullptr, [&](const auto& passes) {
      passes.normalize(call.threads(), args, call.channels.forward);
    });
  }

  void infer_backward(const Problem& problem, const syncnorm_backward_args& args, double* wire,
                      const syncnorm_launch& launch) const override {
    Call call{problem, launch};
    const ChannelRange all = all_channels(problem);
    const Exchange own{1, wire, wire, nullptr};
    if (args.dweight.data != nullptr || args.dbias.data != nullptr) {
      grad_sums(call, args);
      write_grad_wire(problem, all, args, call.channels.sums, wire);
      write_parameter_gradients(problem, all, args, SYNCNORM_GRAD_LOCAL, own);
    }
    saved_constants(problem, all, args, call.channels.forward);
    for (std::int64_t i = 0; i < problem.c; ++i)
      call.channels.backward[i] = {call.channels.forward[i].scale, 0.0, 0.0};
    gradients(call, args, true);
  }

  bool forward_alone(const Problem& problem, const syncnorm_forward_args& args,
                     const WireSpace& space, double hash,
                     const syncnorm_launch& launch) const override {
    if (is_rows(problem)) return false;
    Call call{problem, launch};
    const PlanePasses passes = call.planes();
    const auto blocks = passes.blocks(call.threads(), 1);
    if (blocks.count == 0) return false;
    const Exchange own{1, space.wire, space.wire, space.center_wire};
    write_wire_header(problem, count_values(problem, args.mask), hash, space.wire);
    if (args.saved != nullptr) write_saved_header(problem, own, args.saved);
    const bool running = updates_running(args, own);
    parallel_for(call.threads(), blocks.count, [&](std::int64_t i) {
      const ChannelRange range = blocks[i];
      passes.moments(range, args.x, args.mask, call.channels.moments);
      write_wire(problem, range, call.channels.moments, space.wire, space.local_var);
      if (problem.centered()) write_center(problem, range, own, space.local_var, space.center_wire);
      forward_constants(problem, range, args, own, call.channels.forward);
      if (running) cpu::update_running(problem, range, args, own);
      passes.normalize(range, args, call.channels.forward);
    });
    if (running) count_batch(args);
    return true;
  }

  bool backward_alone(const Problem& problem, const syncnorm_backward_args& args, double* wire,
                      const syncnorm_launch& launch) const override {
    if (is_rows(problem)) return false;
    Call call{problem, launch};
    const PlanePasses passes = call.planes();
    const auto blocks = passes.blocks(call.threads(), args.y == nullptr ? 2 : 3);
    if (blocks.count == 0) return false;
    const Exchange own{1, wire, wire, nullptr};
    parallel_for(call.threads(), blocks.count, [&](std::int64_t i) {
      const ChannelRange range = blocks[i];
      ForwardConstants* forward = call.channels.forward;
      saved_constants(problem, range, args, forward);
      passes.grad_moments(range, inputs(args), forward, call.channels.sums);
      write_grad_wire(problem, range, args, call.channels.sums, wire);
      backward_constants(problem, range, args, own, call.channels.backward);
      passes.grad_input(range, inputs(args), outputs(args), args.mask, forward,
                        call.channels.backward, false);
      write_parameter_gradients(problem, range, args, problem.options.grad_reduction, own);
    });
    return true;
  }

 private:
  static void count_batch(const syncnorm_forward_args& args) {
    if (args.num_batches_tracked != nullptr)
      *args.num_batches_tracked = next_batch(*args.num_batches_tracked);
  }
  static void update_all_running(const Problem& problem, const syncnorm_forward_args& args,
                                 const Exchange& exchange) {
    cpu::update_running(problem, all_channels(problem), args, exchange);
    count_batch(args);
  }
};

}  // namespace
}  // namespace syncnorm::cpu

namespace syncnorm {

const Backend& cpu_backend() {
  static const cpu::CpuBackend backend;
  return backend;
}

}  // namespace syncnorm
