// Synchronized batch normalization as a module of LibTorch, for tensors of the CPU.
#pragma once

// In place of <torch/torch.h>, of which it is what is needed here: compiles in two thirds of the
// time.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <utility>

#include "syncnorm/syncnorm.hpp"

// One rank's handle on its group. The layer holds it, and so does every graph that will go backward
// through the layer.
struct Rank : torch::CustomClassHolder {
  explicit Rank(syncnorm::Communicator handle) : comm(std::move(handle)) {}
  syncnorm::Communicator comm;
};
using RankPtr = c10::intrusive_ptr<Rank>;

// [doc: torch-views]
inline syncnorm_dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf: return SYNCNORM_FLOAT16;
    case at::kBFloat16: return SYNCNORM_BFLOAT16;
    case at::kFloat: return SYNCNORM_FLOAT32;
    case at::kDouble: return SYNCNORM_FLOAT64;
    default:
      TORCH_CHECK(false, "SyncBatchNorm: got ", tensor.scalar_type(),
                  ", expected Half, BFloat16, Float or Double");
  }
}

// Of a dense tensor (n, c, ...), in one of torch's memory formats.
inline syncnorm::Shape shape_of(const at::Tensor& x) {
  const bool channels_first = x.suggest_memory_format() == at::MemoryFormat::Contiguous;
  return {x.size(0), x.size(1), c10::multiply_integers(x.sizes().slice(2)), dtype_of(x),
          channels_first ? SYNCNORM_CHANNELS_FIRST : SYNCNORM_CHANNELS_LAST};
}

inline syncnorm::ConstVector input(const at::Tensor& v) {
  return {v.const_data_ptr(), dtype_of(v)};
}
inline syncnorm::Vector output(at::Tensor& v) { return {v.mutable_data_ptr(), dtype_of(v)}; }

// Memory from torch's allocator, which gives 64-byte aligned blocks.
inline syncnorm::Launch launch_on_cpu(at::Tensor& workspace, std::size_t size) {
  workspace = at::empty(static_cast<std::int64_t>(size), at::kByte);
  return syncnorm::Launch::cpu({workspace.mutable_data_ptr(), size}, at::get_num_threads());
}
// [end]

// [doc: torch-function]
class Normalize : public torch::autograd::Function<Normalize> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& given,
                            const at::Tensor& weight, const at::Tensor& bias,
                            at::Tensor running_mean, at::Tensor running_var, const RankPtr& rank) {
    const at::Tensor x = given.contiguous(given.suggest_memory_format());
    const syncnorm::Shape shape = shape_of(x);
    const syncnorm::Sizes sizes = syncnorm::query_sizes(shape, {});
    at::Tensor y = at::empty_like(x);
    at::Tensor saved = at::empty(static_cast<std::int64_t>(sizes.saved), at::kDouble);
    at::Tensor workspace;

    syncnorm::ForwardArgs args;
    args.x = {x.const_data_ptr(), shape};
    args.y = {y.mutable_data_ptr(), shape};
    args.weight = input(weight);
    args.bias = input(bias);
    args.running_mean = output(running_mean);
    args.running_var = output(running_var);
    args.saved = {saved.mutable_data_ptr<double>(), sizes.saved};
    syncnorm::forward({}, args, rank->comm, launch_on_cpu(workspace, sizes.workspace));

    // Torch has not seen that they were written. mark_dirty is for what is returned as well.
    torch::autograd::impl::bump_version(running_mean);
    torch::autograd::impl::bump_version(running_var);
    context->save_for_backward({x, weight, bias, saved});
    context->saved_data["rank"] = at::IValue::make_capsule(rank);
    return y;
  }

  // Every rank of the group must come here, in its own thread: one call of torch's backward() over
  // the losses of several ranks would run them in turn, and each would wait for the next.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "SyncBatchNorm has no second derivative here: got create_graph=true");
    const torch::autograd::variable_list kept = context->get_saved_variables();
    const at::Tensor &x = kept[0], &weight = kept[1], &bias = kept[2], &saved = kept[3];
    const auto rank = context->saved_data["rank"].toCapsule();
    const syncnorm::Shape shape = shape_of(x);
    const at::Tensor dy = gradients[0].contiguous(x.suggest_memory_format());
    at::Tensor dx = at::empty_like(x);
    at::Tensor dweight = at::empty_like(weight), dbias = at::empty_like(bias);
    at::Tensor workspace;

    syncnorm::BackwardArgs args;
    args.x = {x.const_data_ptr(), shape};
    args.dy = {dy.const_data_ptr(), shape};
    args.weight = input(weight);
    args.bias = input(bias);
    args.saved = {saved.const_data_ptr<double>(), static_cast<std::size_t>(saved.numel())};
    args.dx = {dx.mutable_data_ptr(), shape};
    args.dweight = output(dweight);
    args.dbias = output(dbias);
    const std::size_t size = syncnorm::query_sizes(shape, {}).workspace;
    syncnorm::backward({}, args, static_cast<Rank&>(*rank).comm, launch_on_cpu(workspace, size));
    return {dx, dweight, dbias, {}, {}, {}};
  }
};
// [end]

// As torch::nn::BatchNorm2d with its defaults, but over the batches of all ranks.
// [doc: torch-module]
class SyncBatchNormImpl : public torch::nn::Module {
 public:
  SyncBatchNormImpl(std::int64_t channels, RankPtr rank) : rank_(std::move(rank)) {
    weight = register_parameter("weight", torch::ones(channels));
    bias = register_parameter("bias", torch::zeros(channels));
    running_mean = register_buffer("running_mean", torch::zeros(channels));
    running_var = register_buffer("running_var", torch::ones(channels));
  }

  at::Tensor forward(const at::Tensor& x) {
    TORCH_CHECK(x.is_cpu() && x.dim() >= 2 && x.size(1) == weight.numel(), "SyncBatchNorm: got ",
                x.toString(), x.sizes(), ", expected a tensor of the CPU, (n, ", weight.numel(),
                ", ...)");
    if (!is_training()) {
      return at::batch_norm(x, weight, bias, running_mean, running_var, false, 0.1, 1e-5, false);
    }
    return Normalize::apply(x, weight, bias, running_mean, running_var, rank_);
  }

  at::Tensor weight, bias, running_mean, running_var;

 private:
  RankPtr rank_;
};
TORCH_MODULE(SyncBatchNorm);
// [end]
