// The CUDA backend: which passes, with which arguments.
#include "backend/backend.hpp"
#include "backend/cuda/call.hpp"
#include "backend/cuda/device_limits.hpp"
#include "backend/cuda/passes.hpp"
#include "backend/cuda/scratch.hpp"

namespace syncnorm::cuda {
namespace {

MomentsOutput moments_output(const Problem& problem, double hash, double* wire, double* local_var) {
  return {
      wire, local_var, nullptr, hash, static_cast<double>(problem.n), problem.options.weighting};
}

ForwardChannels channels_of(const Problem& problem, const syncnorm_forward_args& args,
                            const Exchange& exchange, const syncnorm_launch& launch) {
  const syncnorm_options& options = problem.options;
  return {problem.c,
          exchange.group_size,
          exchange.wire,
          exchange.total,
          exchange.center_total,
          args.weight,
          args.bias,
          args.running_mean,
          args.running_var,
          args.num_batches_tracked,
          args.saved,
          launch.status,
          options.eps,
          options.momentum,
          options.eps_mode,
          options.variance_factor,
          options.tag,
          problem.in_place()};
}

BackwardChannels channels_of(const Problem& problem, const syncnorm_backward_args& args,
                             const Exchange& exchange, const syncnorm_launch& launch) {
  return {problem.c,      exchange.group_size,
          args.saved,     exchange.wire,
          exchange.total, args.weight,
          args.bias,      args.dweight,
          args.dbias,     problem.options.grad_reduction,
          launch.status,  problem.in_place()};
}

class CudaBackend final : public Backend {
 public:
  std::size_t scratch_size(const Problem& problem) const override { return Scratch::size(problem); }

  void moments(const Problem& problem, const syncnorm_forward_args& args, double hash, double* wire,
               double* local_var, const syncnorm_launch& launch) const override {
    cuda::moments(Call(problem, launch), args.x, args.mask,
                  moments_output(problem, hash, wire, local_var));
  }

  void center(const Problem& problem, const Exchange& exchange, const double* local_var,
              double* center_wire, const syncnorm_launch& launch) const override {
    cuda::center(Call(problem, launch), exchange, local_var, center_wire);
  }

  void normalize(const Problem& problem, const syncnorm_forward_args& args,
                 const Exchange& exchange, const syncnorm_launch& launch) const override {
    cuda::normalize(Call(problem, launch), args, channels_of(problem, args, exchange, launch),
                    false);
  }

  void update_running(const Problem& problem, const syncnorm_forward_args& args,
                      const Exchange& exchange, const syncnorm_launch& launch) const override {
    ForwardChannels channels = channels_of(problem, args, exchange, launch);
    channels.saved = nullptr;
    finish_forward(Call(problem, launch), channels);
  }

  void add_wires(const GatheredWires& wires, double* total,
                 const syncnorm_launch& launch) const override {
    cuda::add_wires(wires, total, launch);
  }

  void grad_moments(const Problem& problem, const syncnorm_backward_args& args, double hash,
                    double* wire, const syncnorm_launch& launch) const override {
    cuda::grad_moments(Call(problem, launch), args, channels_of(problem, args, {}, launch), hash,
                       wire);
  }

  void grad_input(const Problem& problem, const syncnorm_backward_args& args,
                  const Exchange& exchange, const syncnorm_launch& launch) const override {
    cuda::grad_input(Call(problem, launch), args, channels_of(problem, args, exchange, launch),
                     false);
  }

  void infer(const Problem& problem, const syncnorm_forward_args& args,
             const syncnorm_launch& launch) const override {
    cuda::normalize(Call(problem, launch), args, channels_of(problem, args, {}, launch), false);
  }

  void infer_backward(const Problem& problem, const syncnorm_backward_args& args, double* wire,
                      const syncnorm_launch& launch) const override {
    const Call call(problem, launch);
    BackwardChannels channels = channels_of(problem, args, {1, wire, nullptr, nullptr}, launch);
    channels.reduction = SYNCNORM_GRAD_LOCAL;
    const bool parameters = args.dweight.data != nullptr || args.dbias.data != nullptr;
    if (parameters) cuda::grad_moments(call, args, channels, 0.0, wire);
    cuda::grad_input(call, args, channels, parameters);
  }

  bool forward_alone(const Problem& problem, const syncnorm_forward_args& args,
                     const WireSpace& space, double hash,
                     const syncnorm_launch& launch) const override {
    const Call call(problem, launch);
    const Exchange own{1, space.wire, space.wire, space.center_wire};
    MomentsOutput output = moments_output(problem, hash, space.wire, nullptr);
    output.center_wire = space.center_wire;
    cuda::moments(call, args.x, args.mask, output);
    cuda::normalize(call, args, channels_of(problem, args, own, launch), true);
    return true;
  }

  bool backward_alone(const Problem& problem, const syncnorm_backward_args& args, double* wire,
                      const syncnorm_launch& launch) const override {
    const Call call(problem, launch);
    const BackwardChannels channels = channels_of(problem, args, {1, wire, wire, nullptr}, launch);
    cuda::grad_moments(call, args, channels, 0.0, wire);
    cuda::grad_input(call, args, channels, true);
    return true;
  }
};

}  // namespace
}  // namespace syncnorm::cuda

namespace syncnorm {

const Backend& cuda_backend() {
  static const cuda::CudaBackend backend;
  return backend;
}

bool cuda_built() noexcept { return true; }

CudaDevices cuda_devices() { return find_cuda_devices(); }

}  // namespace syncnorm
