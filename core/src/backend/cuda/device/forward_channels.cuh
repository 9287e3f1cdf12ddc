// The forward pass's work per channel: between the passes over x.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/parameters.cuh"
#include "math/channel.hpp"
#include "math/normalization.hpp"

namespace syncnorm::cuda {

__device__ inline bool is_frozen(const ForwardChannels& channels) {
  return channels.total == nullptr;
}

// Whether all ranks are in the same call.
__device__ inline bool ranks_agree(const ForwardChannels& channels) {
  return is_frozen(channels) ||
         hashes_agree(channels.wire, channels.total, channels.center_total, channels.group_size);
}

__device__ inline Statistics statistics(const ForwardChannels& channels, std::int64_t i) {
  if (is_frozen(channels)) return {load(channels.running_mean, i), load(channels.running_var, i)};
  return statistics_from(channels.total, channels.center_total, channels.c, i);
}

struct NormalizedChannel {
  double mean;
  InverseDeviation inverse;  // invstd in the precision of the arithmetic
};

template <class A>
__device__ NormalizedChannel normalized_channel(const ForwardChannels& channels, std::int64_t i) {
  const Statistics of_group = statistics(channels, i);
  InverseDeviation inverse = inverse_deviation(of_group.var, channels.eps, channels.eps_mode);
  inverse.invstd = static_cast<double>(static_cast<A>(inverse.invstd));
  return {of_group.mean, inverse};
}

template <class A>
__device__ ForwardConstants<A> forward_constants(const ForwardChannels& channels, std::int64_t i) {
  const NormalizedChannel channel = normalized_channel<A>(channels, i);
  const double weight = applied_weight(load_or(channels.weight, i, 1.0), channels.in_place);
  return forward_constants<A>(channel.mean, channel.inverse.invstd, weight,
                              load_or(channels.bias, i, 0.0));
}

template <class A>
__device__ void write_saved(const ForwardChannels& channels, bool agree, std::int64_t i) {
  const NormalizedChannel channel = normalized_channel<A>(channels, i);
  channels.saved[Saved::mean(channels.c, i)] = agree ? channel.mean : NAN;
  channels.saved[Saved::invstd(channels.c, i)] = agree ? channel.inverse.invstd : NAN;
  channels.saved[Saved::gate(channels.c, i)] = agree ? channel.inverse.gate : NAN;
}

__device__ inline void update_running(const ForwardChannels& channels, std::int64_t i,
                                      double momentum) {
  const double factor =
      variance_factor(channels.variance_factor, channels.wire[ForwardWire::kCount],
                      channels.total[ForwardWire::kCount], channels.group_size);
  const Statistics batch = statistics(channels, i);
  store(channels.running_mean, i,
        running_average(load(channels.running_mean, i), batch.mean, momentum));
  store(channels.running_var, i,
        running_average(load(channels.running_var, i), batch.var * factor, momentum));
}

// Writes saved and the running statistics: every thread of the grid some channels. The cumulative
// average reads the count of batches, so there block 0 does all of it and counts at the end.
template <class A>
__device__ void finish_channels(const ForwardChannels& channels, bool agree) {
  const bool first = blockIdx.x == 0 && threadIdx.x == 0;
  if (!agree && first && channels.status != nullptr) *channels.status = SYNCNORM_DESYNC;
  const bool moves = !is_frozen(channels) && agree && channels.running_mean.data != nullptr &&
                     channels.total[ForwardWire::kCount] > 0;
  if (channels.saved == nullptr && !moves) return;
  const bool cumulative = moves && channels.momentum == SYNCNORM_MOMENTUM_CUMULATIVE;
  if (cumulative && blockIdx.x != 0) return;
  const double momentum =
      moves ? running_momentum(channels.momentum,
                               cumulative ? next_batch(*channels.num_batches_tracked) : 1)
            : 0.0;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * (cumulative ? 1 : gridDim.x);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < channels.c; i += step) {
    if (channels.saved != nullptr) write_saved<A>(channels, agree, i);
    if (moves) update_running(channels, i, momentum);
  }
  if (channels.saved != nullptr && first) {
    channels.saved[Saved::kRankFactor] =
        is_frozen(channels) ? 0.0 : rank_factor_from(channels.wire, channels.total);
    channels.saved[Saved::kHash] =
        is_frozen(channels) ? 0.0 : saved_hash(channels.wire[ForwardWire::kHash], channels.tag);
  }
  if (!moves || channels.num_batches_tracked == nullptr) return;
  if (cumulative) __syncthreads();  // all have read it
  if (first) *channels.num_batches_tracked = next_batch(*channels.num_batches_tracked);
}

}  // namespace syncnorm::cuda
