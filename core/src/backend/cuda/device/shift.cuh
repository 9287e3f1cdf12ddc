// A value near a channel's mean, the same in every block that works on the channel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/reduce.cuh"
#include "math/shift.hpp"

namespace syncnorm::cuda {

// The mean, and the spread, of some values of a channel.
template <class A>
class Sample {
 public:
  __device__ __forceinline__ void add(A value) { join({value, value, value, 1}); }

  // With those of `lanes` neighbouring threads of a warp, a power of two; all of them have it then.
  __device__ __forceinline__ void join_lanes(int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      join({__shfl_xor_sync(kAllLanes, sum_, distance),
            __shfl_xor_sync(kAllLanes, least_, distance),
            __shfl_xor_sync(kAllLanes, most_, distance),
            __shfl_xor_sync(kAllLanes, count_, distance)});
  }

  __device__ __forceinline__ A shift() const {
    return count_ == 0 ? A(0) : shift_near<A>(sum_ / static_cast<A>(count_), most_ - least_);
  }

  Sample() = default;

 private:
  __device__ __forceinline__ Sample(A sum, A least, A most, int count)
      : sum_(sum), least_(least), most_(most), count_(count) {}

  __device__ __forceinline__ void join(const Sample& other) {
    if (other.count_ == 0) return;
    least_ = count_ == 0 || other.least_ < least_ ? other.least_ : least_;
    most_ = count_ == 0 || other.most_ > most_ ? other.most_ : most_;
    sum_ += other.sum_;
    count_ += other.count_;
  }

  A sum_ = 0, least_ = 0, most_ = 0;
  int count_ = 0;
};

// shifts[i], of channel first + i, for i < count: from kProbes values spread over its samples and
// over each sample, a thread for each at a time. Every thread of the block calls it.
template <int kProbes, class T>
__device__ void channel_shifts(const T* x, const std::uint8_t* mask, const ChannelIndex& index,
                               std::int64_t first, int count, Arithmetic<T>* shifts) {
  static_assert(kProbes == 8 || kProbes == kWarp);
  const std::int64_t probe = threadIdx.x % kProbes;
  const std::int64_t sample = probe * index.n / kProbes, within = probe * index.s / kProbes;
  const int channels = static_cast<int>(blockDim.x) / kProbes;  // at a time
  for (int round = 0; round < count; round += channels) {
    const int i = round + static_cast<int>(threadIdx.x) / kProbes;
    Sample<Arithmetic<T>> values;
    if (i < count) {
      const InFlight<T> value(x + (sample * index.c + first + i) * index.s + within);
      InFlight<std::uint8_t> counts;
      if (mask != nullptr) counts.load(mask + sample * index.s + within);
      if (mask == nullptr || counts.get() != 0) values.add(to_arithmetic(value.get()));
    }
    values.join_lanes(kProbes);
    if (probe == 0 && i < count) shifts[i] = values.shift();
  }
}

}  // namespace syncnorm::cuda
