// The forward pass: what is summed over x, and what is made of each value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/forward_channels.cuh"
#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/shift.cuh"
#include "math/channel.hpp"
#include "math/moments.hpp"
#include "math/statistics.hpp"

namespace syncnorm::cuda {

__device__ inline void write_header(const MomentsOutput& output, double count) {
  write_forward_header(rank_weight(output.weighting, count, output.samples), count, output.hash,
                       output.wire);
  if (output.center_wire != nullptr)
    write_hash(center_hash(output.hash), CenterWire::kHash, output.center_wire);
}

__device__ inline void write_channel(const MomentsOutput& output, std::int64_t c, std::int64_t i,
                                     const Moments& m) {
  const double weight = rank_weight(output.weighting, m.count, output.samples);
  write_moments(m, weight, c, i, output.wire);
  if (output.local_var != nullptr) output.local_var[i] = variance(m);
  if (output.center_wire != nullptr)
    output.center_wire[CenterWire::kHeader + i] = weight * variance(m);
  if (i == 0) write_header(output, m.count);
}

// Sums of x - shift, of its square and, with a mask, of the values that count.
template <class T, int V, bool kMasked>
struct MomentTerms {
  // A mask may exclude every value that the shift is taken from: then float64 does without.
  using A = std::conditional_t<kMasked, double, Arithmetic<T>>;
  using Constant = Arithmetic<T>;  // the shift
  static constexpr int kTerms = kMasked ? 3 : 2;

  const T* x;
  const std::uint8_t* mask;
  ChannelIndex index;
  MomentsOutput output;

  struct Inputs {
    Pack<T, V> x;
    [[no_unique_address]] MaskOfPack<V, kMasked> counts;
  };
  template <class Positions>
  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece,
                                       const Positions& positions) const {
    inputs.x.load(x + piece.offset);
    if constexpr (kMasked) inputs.counts.load(mask, piece, positions);
  }
  template <class Positions>
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece,
                                            const Positions& positions) const {
    inputs.x.load_part(x + piece.offset, piece);
    if constexpr (kMasked) inputs.counts.load(mask, piece, positions);
  }

  __device__ __forceinline__ void prepare(std::int64_t first, int count,
                                          Constant* constants) const {
    channel_shifts<kMasked>(x, mask, index, first, count, constants);
  }

  template <class Whole, class Lane>
  __device__ __forceinline__ void add(const Inputs& inputs, const Piece& piece, Whole,
                                      const Lane& lane, A (&sums)[kTerms][V]) const {
    Arithmetic<T> values[V];
    inputs.x.unpack(values);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      bool counts = Whole::value || (e >= piece.begin && e < piece.end);
      if constexpr (kMasked) counts = counts && inputs.counts[e];
      const A d = counts ? static_cast<A>(values[e]) - static_cast<A>(lane.constant(e)) : A(0);
      sums[0][e] += d;
      sums[1][e] = std::fma(d, d, sums[1][e]);
      if constexpr (kMasked) sums[2][e] += counts ? A(1) : A(0);
    }
  }

  __device__ void finish(std::int64_t channel, const double (&sums)[kTerms], Constant shift) const {
    const double count = kMasked ? sums[kTerms - 1] : static_cast<double>(index.positions());
    write_channel(output, index.c, channel,
                  moments_from_shifted(count, static_cast<double>(shift), sums[0], sums[1]));
  }
};

// What a kernel of the second pass is made for.
enum class Form {
  kPlain,     // not elu, without a residual
  kResidual,  // not elu, with one
  kElu        // with a residual or without
};

template <class T_, int V, Form kForm>
struct NormalizeMap {
  using T = T_;
  using A = Arithmetic<T>;
  using Constant = ForwardConstants<A>;

  const T* x;
  const T* residual;
  T* y;
  Activation<A> activation;
  ForwardChannels channels;

  struct Inputs {
    Pack<T, V> x;
    Pack<T, V> residual;
  };
  template <class Positions>
  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece, const Positions&) const {
    inputs.x.load(x + piece.offset);
    if (has_residual()) inputs.residual.load(residual + piece.offset);
  }
  template <class Positions>
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece,
                                            const Positions&) const {
    inputs.x.load_part(x + piece.offset, piece);
    if (has_residual()) inputs.residual.load_part(residual + piece.offset, piece);
  }

  __device__ Constant prepare(std::int64_t channel) const {
    return forward_constants<A>(channels, channel);
  }
  __device__ void finish(bool agree) const { finish_channels<A>(channels, agree); }

  // NaN where the ranks do not agree.
  template <class Lane>
  __device__ __forceinline__ void apply(const Inputs& inputs, const Piece& piece, const Lane& lane,
                                        bool agree) const {
    A values[V], added[V] = {};
    inputs.x.unpack(values);
    if (has_residual()) inputs.residual.unpack(added);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      A z = normalized(lane.constant(e), values[e]);
      if (has_residual()) z += added[e];
      values[e] = agree ? activate(z) : static_cast<A>(NAN);
    }
    store<T, V>(y + piece.offset, piece, values);
  }

 private:
  __device__ __forceinline__ bool has_residual() const {
    if constexpr (kForm == Form::kElu) return residual != nullptr;
    return kForm == Form::kResidual;
  }
  __device__ __forceinline__ A activate(A z) const {
    if constexpr (kForm == Form::kElu) return elu(z);
    return activation(z);
  }
};

}  // namespace syncnorm::cuda
