// Batch normalization as a layer of the trainer.
#pragma once

#include <cstdint>

#include "device.hpp"
#include "syncnorm/syncnorm.hpp"

// Everything that lies on the device is the trainer's memory. Calls enqueue, and return.
class BatchNorm {
 public:
  // [doc: cuda-layer]
  BatchNorm(const syncnorm::Shape& x, int device, cudaStream_t stream, Arena& arena)
      : weight(arena.take<float>(channels(x))),
        bias(arena.take<float>(channels(x))),
        gradients(arena.take<float>(2 * channels(x))),
        running(arena.take<float>(2 * channels(x))),
        status(arena.take<std::int32_t>(1)),
        shape_(x),
        sizes_(syncnorm::query_sizes(x, options(), SYNCNORM_CUDA)),
        saved_(arena.take<double>(sizes_.saved)),
        launch_(syncnorm::Launch::cuda(device, stream, workspace(arena)).status(status)) {}

  void forward(const float* x, float* y, syncnorm::Communicator& comm) {
    syncnorm::ForwardArgs args;
    args.x = {x, shape_};
    args.y = {y, shape_};
    args.weight = weight;
    args.bias = bias;
    args.running_mean = running;
    args.running_var = running + shape_.c;
    args.saved = {saved_, sizes_.saved};
    syncnorm::forward(options(), args, comm, launch_);
  }

  void backward(const float* x, const float* dy, float* dx, syncnorm::Communicator& comm) {
    syncnorm::BackwardArgs args;
    args.x = {x, shape_};
    args.dy = {dy, shape_};
    args.weight = weight;
    args.bias = bias;
    args.saved = {saved_, sizes_.saved};
    args.dx = {dx, shape_};
    args.dweight = gradients;
    args.dbias = gradients + shape_.c;
    syncnorm::backward(options(), args, comm, launch_);
  }
  // [end]

  float* weight;
  float* bias;
  float* gradients;      // of the weight, then of the bias, so that one sum reduces both
  float* running;        // mean, then variance
  std::int32_t* status;  // becomes SYNCNORM_DESYNC where the ranks disagree

 private:
  static std::size_t channels(const syncnorm::Shape& x) { return static_cast<std::size_t>(x.c); }

  // The number of the layer, and a constant in place of the communicator's count of forward passes,
  // which stands still in a graph.
  static syncnorm::Options options() {
    syncnorm::Options options;
    options.tag = (std::uint64_t{1} << 32) + 1;
    return options;
  }

  // One would do for all layers on this stream: nothing in it outlives a call.
  syncnorm::WorkspaceView workspace(Arena& arena) const {
    return {arena.take<std::byte>(sizes_.workspace), sizes_.workspace};
  }

  syncnorm::Shape shape_;
  syncnorm::Sizes sizes_;
  double* saved_;  // from forward to backward
  syncnorm::Launch launch_;
};
