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

namespace syncnorm::cuda {

// Where the derivative of the activation comes from.
enum class Derivative {
  kOne,         // there is no activation
  kFromInput,   // of relu and leaky_relu: the sign before them, computed again from x
  kFromOutput,  // read from y
  kAny          // the rest, told apart when it runs: elu computed again from x; in place
};

__device__ inline bool ranks_agree(const BackwardChannels& channels) {
  return channels.total == nullptr ||
         hashes_agree(channels.wire[BackwardWire::kHash], channels.total, BackwardWire::kHash,
                      channels.group_size);
}

__device__ inline double weight_of(const BackwardChannels& channels, std::int64_t i) {
  return applied_weight(load_or(channels.weight, i, 1.0), channels.in_place);
}

// What makes xhat of the values that are read.
__device__ inline Standardization standardization_of(const BackwardChannels& channels,
                                                     std::int64_t i) {
  if (channels.in_place)
    return standardization_in_place(weight_of(channels, i), load_or(channels.bias, i, 0.0));
  return {channels.saved[Saved::mean(channels.c, i)], channels.saved[Saved::invstd(channels.c, i)]};
}

template <class A>
__device__ ForwardConstants<A> saved_constants(const BackwardChannels& channels, std::int64_t i) {
  return forward_constants<A>(standardization_of(channels, i).origin,
                              channels.saved[Saved::invstd(channels.c, i)], weight_of(channels, i),
                              load_or(channels.bias, i, 0.0));
}

template <class A>
__device__ BackwardConstants<A> backward_constants(const BackwardChannels& channels,
                                                   std::int64_t i) {
  const ForwardConstants<A> forward = saved_constants<A>(channels, i);
  if (channels.total == nullptr) return {forward, A(0), A(0)};
  const double* saved = channels.saved;
  const auto [origin, unit] = standardization_of(channels, i);
  const GradientCoefficients k =
      gradient_coefficients(weight_of(channels, i), saved[Saved::invstd(channels.c, i)], unit,
                            saved[Saved::gate(channels.c, i)], saved[Saved::kRankFactor],
                            channels.total[BackwardWire::bias(channels.c, i)],
                            channels.total[BackwardWire::weight(channels.c, i)]);
  const auto lo = static_cast<double>(mean_lo<A>(origin));
  return {forward, static_cast<A>(k.offset - k.slope * lo), static_cast<A>(k.slope)};
}

__device__ inline void write_gradient(const BackwardChannels& channels, bool agree,
                                      const syncnorm_vector& gradient, std::int64_t i,
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
    *channels.status = SYNCNORM_DESYNC;
  if (channels.dweight.data == nullptr && channels.dbias.data == nullptr) return;
  const std::int64_t step = static_cast<std::int64_t>(blockDim.x) * gridDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < channels.c; i += step) {
    write_gradient(channels, agree, channels.dbias, i, BackwardWire::bias(channels.c, i));
    write_gradient(channels, agree, channels.dweight, i, BackwardWire::weight(channels.c, i));
  }
}

// What both passes read.
template <class T, int V, Derivative kDerivative>
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
    if constexpr (kDerivative == Derivative::kFromOutput) inputs.y.load(y + piece.offset);
  }
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece) const {
    inputs.x.load_part(x + piece.offset, piece);
    inputs.dy.load_part(dy + piece.offset, piece);
    if constexpr (kDerivative == Derivative::kFromOutput)
      inputs.y.load_part(y + piece.offset, piece);
  }
};

// dy' and v - hi of the values of one piece.
template <class T, int V, Derivative kDerivative>
struct Gradients {
  using A = Arithmetic<T>;
  A dy[V];
  A deviation[V];

  template <class Constants>
  __device__ __forceinline__ Gradients(const typename GradSource<T, V, kDerivative>::Inputs& inputs,
                                       const Activation<A>& activation,
                                       const Constants& constants) {
    A x[V], y[V];
    inputs.x.unpack(x);
    inputs.dy.unpack(dy);
    if constexpr (kDerivative == Derivative::kFromOutput) inputs.y.unpack(y);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const ForwardConstants<A>& c = constants(e);
      if constexpr (kDerivative == Derivative::kFromOutput)
        dy[e] = activation.gate_of_output(y[e], dy[e]);
      if constexpr (kDerivative == Derivative::kFromInput)
        dy[e] = activation.gate(normalized(c, x[e]), dy[e]);
      if constexpr (kDerivative == Derivative::kAny) differentiate(activation, c, x[e], dy[e]);
      deviation[e] = x[e] - c.hi;
    }
  }

 private:
  // In place the value becomes what went into the activation.
  __device__ __forceinline__ static void differentiate(const Activation<A>& activation,
                                                       const ForwardConstants<A>& c, A& value,
                                                       A& dy) {
    if (activation.in_place) {
      dy = activation.gate_of_output(value, dy);
      value = activation.inverse(value, static_cast<A>(elu_saturation(kDigits<T>)));
    } else {
      dy = elu_gate(normalized(c, value), dy);
    }
  }
};

// Sums of dy' and of dy'*(v - hi).
template <class T_, int V, Derivative kDerivative>
struct GradTerms : GradSource<T_, V, kDerivative> {
  using T = T_;
  using A = Arithmetic<T>;
  using Constant = ForwardConstants<A>;
  using Inputs = typename GradSource<T, V, kDerivative>::Inputs;
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
    const Gradients<T, V, kDerivative> g(
        inputs, activation, [&](int e) -> const Constant& { return lane.constant(e); });
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
    const auto [origin, unit] = standardization_of(channels, channel);
    const auto lo = static_cast<double>(mean_lo<A>(origin));
    wire[BackwardWire::weight(channels.c, channel)] = (sums[1] - lo * sums[0]) * unit;
    if (channel == 0)
      write_hash(following_hash(channels.saved[Saved::kHash], hash), BackwardWire::kHash, wire);
  }
};

template <class T_, int V, Derivative kDerivative>
struct GradInputMap : GradSource<T_, V, kDerivative> {
  using T = T_;
  using A = Arithmetic<T>;
  using Inputs = typename GradSource<T, V, kDerivative>::Inputs;
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
    const Gradients<T, V, kDerivative> g(
        inputs, activation,
        [&](int e) -> const ForwardConstants<A>& { return lane.constant(e).forward; });
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

template <class T, int V, Derivative kDerivative>
__device__ void finish_channels(const GradInputMap<T, V, kDerivative>& map, bool agree) {
  finish_channels(map.channels, agree);
}

}  // namespace syncnorm::cuda
