// The backward pass: what is summed over dy and x, and what is made of each value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/parameters.cuh"
#include "math/channel.hpp"
#include "math/normalization.hpp"

namespace syncbn::cuda {

// Where the sign before the activation comes from.
enum class Sign {
  kUnused,     // no activation
  kFromInput,  // computed again from x
  kFromOutput  // read from y
};

__device__ inline bool ranks_agree(const BackwardChannels& channels) {
  return channels.total == nullptr ||
         hashes_agree(channels.total, BackwardWire::kHash, channels.group_size);
}

template <class A>
__device__ ForwardConstants<A> saved_constants(const BackwardChannels& channels, std::int64_t i) {
  return forward_constants<A>(channels.saved[Saved::mean(channels.c, i)],
                              channels.saved[Saved::invstd(channels.c, i)],
                              load_or(channels.weight, i, 1.0), load_or(channels.bias, i, 0.0));
}

template <class A>
__device__ BackwardConstants<A> backward_constants(const BackwardChannels& channels,
                                                   std::int64_t i) {
  const ForwardConstants<A> forward = saved_constants<A>(channels, i);
  if (channels.total == nullptr) return {forward, A(0), A(0)};
  const double* saved = channels.saved;
  const GradientCoefficients k =
      gradient_coefficients(load_or(channels.weight, i, 1.0), saved[Saved::invstd(channels.c, i)],
                            saved[Saved::gate(channels.c, i)], saved[Saved::kRankFactor],
                            channels.total[BackwardWire::bias(channels.c, i)],
                            channels.total[BackwardWire::weight(channels.c, i)]);
  const auto lo = static_cast<double>(mean_lo<A>(saved[Saved::mean(channels.c, i)]));
  return {forward, static_cast<A>(k.offset - k.slope * lo), static_cast<A>(k.slope)};
}

__device__ inline void write_gradient(const BackwardChannels& channels, bool agree,
                                      const syncbn_vector& gradient, std::int64_t i,
                                      std::int64_t at) {
  if (gradient.data == nullptr) return;
  const double value =
      reduced_gradient(channels.wire[at], channels.total == nullptr ? 0.0 : channels.total[at],
                       channels.reduction, channels.group_size);
  store(gradient, i, agree ? value : NAN);
}

// dweight and dbias: every thread of the grid some channels.
__device__ inline void finish_channels(const BackwardChannels& channels, bool agree) {
  if (!agree && blockIdx.x == 0 && threadIdx.x == 0 && channels.status != nullptr)
    *channels.status = SYNCBN_DESYNC;
  if (channels.dweight.data == nullptr && channels.dbias.data == nullptr) return;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * gridDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < channels.c; i += step) {
    write_gradient(channels, agree, channels.dbias, i, BackwardWire::bias(channels.c, i));
    write_gradient(channels, agree, channels.dweight, i, BackwardWire::weight(channels.c, i));
  }
}

// What both passes read.
template <class T, int V, Sign kSign>
struct GradSource {
  const T* x;
  const T* dy;
  const T* y;

  struct Inputs {
    Pack<T, V> x;
    Pack<T, V> dy;
    Pack<T, V> y;
  };
  // Where y is not read.
  using Kept = KeptPacks<T, V, 2>;
  __device__ __forceinline__ Kept keep(const Inputs& inputs) const {
    return {{inputs.x, inputs.dy}};
  }
  __device__ __forceinline__ void restore(Inputs& inputs, const Kept& kept, const Piece&) const {
    inputs.x = kept.packs[0];
    inputs.dy = kept.packs[1];
  }
  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece) const {
    inputs.x.load(x + piece.offset);
    inputs.dy.load(dy + piece.offset);
    if constexpr (kSign == Sign::kFromOutput) inputs.y.load(y + piece.offset);
  }
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece) const {
    inputs.x.load_part(x + piece.offset, piece);
    inputs.dy.load_part(dy + piece.offset, piece);
    if constexpr (kSign == Sign::kFromOutput) inputs.y.load_part(y + piece.offset, piece);
  }
};

// dy' and x - hi of the values of one piece.
template <class T, int V, Sign kSign>
struct Gradients {
  using A = Arithmetic<T>;
  A dy[V];
  A deviation[V];

  template <class Constants>
  __device__ __forceinline__ Gradients(const typename GradSource<T, V, kSign>::Inputs& inputs,
                                       const Activation<A>& activation,
                                       const Constants& constants) {
    A x[V], y[V];
    inputs.x.unpack(x);
    inputs.dy.unpack(dy);
    if constexpr (kSign == Sign::kFromOutput) inputs.y.unpack(y);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const ForwardConstants<A>& c = constants(e);
      deviation[e] = x[e] - c.hi;
      if constexpr (kSign == Sign::kFromOutput) dy[e] = activation.gate(y[e], dy[e]);
      if constexpr (kSign == Sign::kFromInput) dy[e] = activation.gate(normalized(c, x[e]), dy[e]);
    }
  }
};

// Sums of dy' and of dy'*(x - hi).
template <class T_, int V, Sign kSign>
struct GradTerms : GradSource<T_, V, kSign> {
  using T = T_;
  using A = Arithmetic<T>;
  using Constant = ForwardConstants<A>;
  using Inputs = typename GradSource<T, V, kSign>::Inputs;
  static constexpr int kTerms = 2;

  Activation<A> activation;
  BackwardChannels channels;
  double* wire;
  double hash;

  __device__ Constant prepare(std::int64_t channel) const {
    return saved_constants<A>(channels, channel);
  }

  template <class Whole, class Lane>
  __device__ __forceinline__ void add(const Inputs& inputs, const Piece& piece, Whole,
                                      const Lane& lane, A (&sums)[kTerms][V]) const {
    const Gradients<T, V, kSign> g(inputs, activation,
                                   [&](int e) -> const Constant& { return lane.constant(e); });
#pragma unroll
    for (int e = 0; e < V; ++e) {
      if (!(Whole::value || (e >= piece.begin && e < piece.end))) continue;
      sums[0][e] += g.dy[e];
      sums[1][e] = std::fma(g.dy[e], g.deviation[e], sums[1][e]);
    }
  }

  __device__ void finish(std::int64_t channel, const double (&sums)[kTerms],
                         const Constant&) const {
    wire[BackwardWire::bias(channels.c, channel)] = sums[0];
    const auto lo =
        static_cast<double>(mean_lo<A>(channels.saved[Saved::mean(channels.c, channel)]));
    wire[BackwardWire::weight(channels.c, channel)] =
        (sums[1] - lo * sums[0]) * channels.saved[Saved::invstd(channels.c, channel)];
    if (channel == 0) write_hash(hash, BackwardWire::kHash, wire);
  }
};

template <class T_, int V, Sign kSign>
struct GradInputMap : GradSource<T_, V, kSign> {
  using T = T_;
  using A = Arithmetic<T>;
  using Inputs = typename GradSource<T, V, kSign>::Inputs;
  using Constant = BackwardConstants<A>;

  const std::uint8_t* mask;
  T* dx;
  T* dresidual;
  Activation<A> activation;
  BackwardChannels channels;

  __device__ Constant prepare(std::int64_t channel) const {
    return backward_constants<A>(channels, channel);
  }

  // NaN where the ranks do not agree.
  template <class Lane>
  __device__ __forceinline__ void apply(const Inputs& inputs, const Piece& piece, const Lane& lane,
                                        bool agree) const {
    const Gradients<T, V, kSign> g(inputs, activation, [&](int e) -> const ForwardConstants<A>& {
      return lane.constant(e).forward;
    });
    A values[V];
    if (dresidual != nullptr) {
#pragma unroll
      for (int e = 0; e < V; ++e) values[e] = agree ? g.dy[e] : static_cast<A>(NAN);
      store<T, V>(dresidual + piece.offset, piece, values);
    }
    if (dx == nullptr) return;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const Constant& k = lane.constant(e);
      const bool counts = channels.total != nullptr &&
                          (mask == nullptr || (e >= piece.begin && e < piece.end &&
                                               mask[piece.position + lane.position(e)] != 0));
      const A value =
          counts ? std::fma(k.forward.scale, g.dy[e], std::fma(k.slope, g.deviation[e], k.offset))
                 : k.forward.scale * g.dy[e];
      values[e] = agree ? value : static_cast<A>(NAN);
    }
    store<T, V>(dx + piece.offset, piece, values);
  }
};

template <class T, int V, Sign kSign>
__device__ void finish_channels(const GradInputMap<T, V, kSign>& map, bool agree) {
  finish_channels(map.channels, agree);
}

}  // namespace syncbn::cuda
