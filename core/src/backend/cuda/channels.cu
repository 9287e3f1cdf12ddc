// The small launches: over the channels alone.
#include <algorithm>
#include <cstdint>

#include "backend/cuda/device/backward.cuh"
#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/passes.hpp"
#include "plan/support_table.hpp"

namespace syncnorm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 64;

// No values: nothing but zeros, and the number of positions that count where there is no channel.
__global__ __launch_bounds__(kThreads) void empty_moments_kernel(const std::uint8_t* mask,
                                                                 ChannelIndex index,
                                                                 MomentsOutput output) {
  __shared__ double scratch[kWarp];
  double count = static_cast<double>(index.positions());
  if (mask != nullptr) {
    count = 0;
    for (std::int64_t p = threadIdx.x; p < index.positions(); p += blockDim.x)
      count += mask[p] != 0 ? 1.0 : 0.0;
    count = sum_of_block(count, scratch);
  }
  if (threadIdx.x == 0) write_header(output, count);
  for (std::int64_t i = threadIdx.x; i < index.c; i += blockDim.x) {
    write_moments(Moments{}, 0.0, index.c, i, output.wire);
    if (output.local_var != nullptr) output.local_var[i] = 0.0;
    if (output.center_wire != nullptr) output.center_wire[CenterWire::kHeader + i] = 0.0;
  }
}

__global__ __launch_bounds__(kThreads) void empty_grad_moments_kernel(std::int64_t c,
                                                                      const double* saved,
                                                                      double hash, double* wire) {
  if (threadIdx.x == 0)
    write_hash(following_hash(saved[Saved::kHash], hash), BackwardWire::kHash, wire);
  for (std::int64_t i = threadIdx.x; i < 2 * c; i += blockDim.x)
    wire[BackwardWire::kHeader + i] = 0.0;
}

__global__ __launch_bounds__(kThreads) void center_kernel(std::int64_t c, const double* wire,
                                                          const double* total,
                                                          const double* local_var,
                                                          double* center_wire) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (first == 0) {
    write_hash(center_hash(wire[ForwardWire::kHash]), CenterWire::kHash, center_wire);
    if (c % 2 != 0) center_wire[CenterWire::kHeader + c] = 0.0;
  }
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * gridDim.x;
  for (std::int64_t i = first; i < c; i += step)
    center_wire[CenterWire::kHeader + i] = center_entry(wire, total, local_var[i], c, i);
}

__global__ __launch_bounds__(kThreads) void add_wires_kernel(GatheredWires wires, double* total) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * gridDim.x;
  for (std::int64_t i = first; i < wires.length; i += step) {
    double sum = wires.ranks > 0 ? wires.values[i] : 0.0;
    for (std::int64_t rank = 1; rank < wires.ranks; ++rank)
      sum += wires.values[rank * wires.length + i];
    total[i] = sum;
  }
}

template <class A>
__global__ __launch_bounds__(kThreads) void finish_forward_kernel(ForwardChannels channels) {
  finish_channels<A>(channels, agreement_of(channels).holds());
}

__global__ __launch_bounds__(kThreads) void finish_backward_kernel(BackwardChannels channels) {
  finish_channels(channels, agreement_of(channels).holds());
}

Grid grid_over(std::int64_t count, cudaStream_t stream) {
  const std::int64_t blocks = divide_up(count, kThreads);
  return {static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kMaxBlocks)), kThreads, stream};
}

Grid grid_of(const Call& call) { return grid_over(call.problem.c, call.stream); }

Grid one_block(const Call& call) { return {1, kThreads, call.stream}; }

}  // namespace

void empty_moments(const Call& call, const std::uint8_t* mask, const MomentsOutput& output) {
  const ChannelIndex index{call.problem.values_per_channel(), call.problem.c, 1};
  launch<empty_moments_kernel>(one_block(call), mask, index, output);
}

void empty_grad_moments(const Call& call, const double* saved, double hash, double* wire) {
  launch<empty_grad_moments_kernel>(one_block(call), call.problem.c, saved, hash, wire);
}

void center(const Call& call, const Exchange& exchange, const double* local_var,
            double* center_wire) {
  launch<center_kernel>(grid_of(call), call.problem.c, exchange.wire, exchange.total, local_var,
                        center_wire);
}

void add_wires(const GatheredWires& wires, double* total, const syncnorm_launch& launch) {
  const DeviceGuard device(launch.device_index);
  cuda::launch<add_wires_kernel>(grid_over(wires.length, static_cast<cudaStream_t>(launch.stream)),
                                 wires, total);
}

void finish_forward(const Call& call, const ForwardChannels& channels) {
  if (support_of(call.problem.dtype).arithmetic == SYNCNORM_FLOAT64)
    launch<finish_forward_kernel<double>>(grid_of(call), channels);
  else
    launch<finish_forward_kernel<float>>(grid_of(call), channels);
}

void finish_backward(const Call& call, const BackwardChannels& channels) {
  launch<finish_backward_kernel>(grid_of(call), channels);
}

}  // namespace syncnorm::cuda
