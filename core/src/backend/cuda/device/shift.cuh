// A value near a channel's mean, the same in every block that works on the channel.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "math/shift.hpp"

namespace syncnorm::cuda {

// Of some values of a channel what its shift is made of; of none at first.
template <class A>
struct Sample {
  A sum = 0, least = INFINITY, most = -INFINITY;
  int count = 0;

  __device__ __forceinline__ void join(const Sample& other) {
    sum += other.sum;
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
    count += other.count;
  }
  // With those of `lanes` neighbouring threads of a warp, a power of two; all of them have it then.
  __device__ __forceinline__ void join_lanes(int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      join({__shfl_xor_sync(kAllLanes, sum, distance), __shfl_xor_sync(kAllLanes, least, distance),
            __shfl_xor_sync(kAllLanes, most, distance),
            __shfl_xor_sync(kAllLanes, count, distance)});
  }
};

// shifts[i], of channel first + i, for i < count: from values spread over its samples and over each
// sample, more of them where a mask may exclude some. A thread loads one value of each of several
// channels before it uses them. Every thread of the block calls it.
template <bool kMasked, class T>
__device__ __forceinline__ void channel_shifts(const T* x, const std::uint8_t* mask,
                                               const ChannelIndex& index, std::int64_t first,
                                               int count, Arithmetic<T>* shifts) {
  using A = Arithmetic<T>;
  constexpr int kProbes = kMasked ? kWarp : 8;
  constexpr int kChannels = 4;  // of a thread at a time
  const std::int64_t probe = threadIdx.x % kProbes;
  const std::int64_t sample = probe * index.n / kProbes, within = probe * index.s / kProbes;
  const int step = static_cast<int>(blockDim.x) / kProbes;
  const int own = static_cast<int>(threadIdx.x) / kProbes;
  InFlight<std::uint8_t> counts;
  if constexpr (kMasked) counts.load(mask + sample * index.s + within);
  for (int round = 0; round < count; round += kChannels * step) {
    InFlight<T> values[kChannels];
#pragma unroll
    for (int u = 0; u < kChannels; ++u) {
      const int i = round + u * step + own;
      if (i < count) values[u].load(x + (sample * index.c + first + i) * index.s + within);
    }
#pragma unroll
    for (int u = 0; u < kChannels; ++u) {
      const int i = round + u * step + own;
      Sample<A> of_channel;
      bool probed = i < count;
      if constexpr (kMasked) probed = probed && counts.get() != 0;
      if (probed) {
        const A value = to_arithmetic(values[u].get());
        of_channel = {value, value, value, 1};
      }
      of_channel.join_lanes(kProbes);
      if (probe != 0 || i >= count) continue;
      const A fraction = kMasked ? A(1) / static_cast<A>(of_channel.count) : A(1) / kProbes;
      const A spread = of_channel.most - of_channel.least;
      shifts[i] = of_channel.count == 0 ? A(0) : shift_near<A>(of_channel.sum * fraction, spread);
    }
  }
}

}  // namespace syncnorm::cuda
