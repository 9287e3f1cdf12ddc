// The forward pass's work per channel: between the passes over x.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/agreement.cuh"
#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/in_flight.cuh"
#include "backend/cuda/device/parameters.cuh"
#include "math/channel.hpp"
#include "math/normalization.hpp"

namespace syncnorm::cuda {

__device__ inline bool is_frozen(const ForwardChannels& channels) {
  return channels.total == nullptr;
}

// Whether all ranks are in the same call.
__device__ inline Agreement agreement_of(const ForwardChannels& channels) {
  Agreement agreement(channels.group_size);
  if (is_frozen(channels)) return agreement;
  agreement.expect(channels.wire, channels.total, ForwardWire::kHash);
  if (channels.center_total != nullptr) agreement.expect_center(channels.center_total);
  return agreement;
}

// The statistics of one channel, on their way.
class StatisticsInFlight {
 public:
  __device__ StatisticsInFlight(const ForwardChannels& channels, std::int64_t i)
      : frozen_(is_frozen(channels)),
        centered_(channels.center_total != nullptr),
        running_mean_(frozen_ ? channels.running_mean : syncnorm_vector{}, i),
        running_var_(frozen_ ? channels.running_var : syncnorm_vector{}, i) {
    if (frozen_) return;
    const double* const total = channels.total;
    weight_.load(total + ForwardWire::kWeight);
    mean_.load(total + ForwardWire::mean(channels.c, i));
    if (centered_)
      second_.load(channels.center_total + CenterWire::kHeader + i);
    else
      second_.load(total + ForwardWire::square(channels.c, i));
  }

  __device__ Statistics get() const {
    if (frozen_) return {running_mean_.value(), running_var_.value()};
    return centered_ ? centered_statistics(weight_.get(), mean_.get(), second_.get())
                     : group_statistics(weight_.get(), mean_.get(), second_.get());
  }

 private:
  bool frozen_, centered_;
  Parameter running_mean_, running_var_;
  InFlight<double> weight_, mean_, second_;
};

struct NormalizedChannel {
  double mean;
  InverseDeviation inverse;  // invstd in the precision of the arithmetic
};

template <class A>
__device__ NormalizedChannel normalized_channel(const ForwardChannels& channels,
                                                const Statistics& of_group) {
  InverseDeviation inverse = inverse_deviation(of_group.var, channels.eps, channels.eps_mode);
  inverse.invstd = static_cast<double>(static_cast<A>(inverse.invstd));
  return {of_group.mean, inverse};
}

template <class A>
__device__ ForwardConstants<A> forward_constants(const ForwardChannels& channels, std::int64_t i) {
  const StatisticsInFlight statistics(channels, i);
  const Parameter weight(channels.weight, i), bias(channels.bias, i);
  const NormalizedChannel channel = normalized_channel<A>(channels, statistics.get());
  return forward_constants<A>(channel.mean, channel.inverse.invstd,
                              applied_weight(weight.value_or(1.0), channels.in_place),
                              bias.value_or(0.0));
}

template <class A>
__device__ void write_saved(const ForwardChannels& channels, const Statistics& of_group, bool agree,
                            std::int64_t i) {
  const NormalizedChannel channel = normalized_channel<A>(channels, of_group);
  channels.saved[Saved::mean(channels.c, i)] = agree ? channel.mean : NAN;
  channels.saved[Saved::invstd(channels.c, i)] = agree ? channel.inverse.invstd : NAN;
  channels.saved[Saved::gate(channels.c, i)] = agree ? channel.inverse.gate : NAN;
}

__device__ inline void update_running(const ForwardChannels& channels, const Statistics& of_group,
                                      std::int64_t i, double momentum) {
  const Parameter mean(channels.running_mean, i), var(channels.running_var, i);
  const double factor =
      variance_factor(channels.variance_factor, channels.wire[ForwardWire::kCount],
                      channels.total[ForwardWire::kCount], channels.group_size);
  store(channels.running_mean, i, running_average(mean.value(), of_group.mean, momentum));
  store(channels.running_var, i, running_average(var.value(), of_group.var * factor, momentum));
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
    const Statistics of_group = StatisticsInFlight(channels, i).get();
    if (channels.saved != nullptr) write_saved<A>(channels, of_group, agree, i);
    if (moves) update_running(channels, of_group, i, momentum);
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
