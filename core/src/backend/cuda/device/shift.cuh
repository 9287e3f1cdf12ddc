// A value near a channel's mean, the same in every block that works on the channel.
#pragma once

#include <cstdint>

#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/pack.cuh"
#include "math/shift.hpp"

namespace syncnorm::cuda {

__device__ inline std::int64_t value_at(const ChannelIndex& index, std::int64_t channel,
                                        std::int64_t p) {
  return (p / index.s * index.c + channel) * index.s + p % index.s;
}

// Of up to 8 values spread over the channel; of up to 32 where a mask may exclude some.
template <class T>
__device__ Arithmetic<T> channel_shift(const T* x, const std::uint8_t* mask,
                                       const ChannelIndex& index, std::int64_t channel) {
  using A = Arithmetic<T>;
  const int probes = mask == nullptr ? 8 : 32;
  const std::int64_t step = index.positions > probes ? index.positions / probes : 1;
  A sum = 0, least = 0, most = 0;
  int count = 0;
  for (int k = 0; k < probes && k * step < index.positions; ++k) {
    if (mask != nullptr && mask[k * step] == 0) continue;
    const A value = to_arithmetic(x[value_at(index, channel, k * step)]);
    sum += value;
    least = count == 0 || value < least ? value : least;
    most = count == 0 || value > most ? value : most;
    ++count;
  }
  return count == 0 ? A(0) : shift_near<A>(sum / static_cast<A>(count), most - least);
}

}  // namespace syncnorm::cuda
