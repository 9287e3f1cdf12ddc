// The backward pass: what is summed over dy and x, and what is made of each value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/agreement.cuh"
#include "backend/cuda/device/channel_arguments.hpp"
#include "backend/cuda/device/elementwise.cuh"
#include "backend/cuda/device/in_flight.cuh"
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
  kAny          // any of these and the rest, told apart when it runs: elu computed again from x; in
                // place; with a mask
};

__device__ inline Agreement agreement_of(const BackwardChannels& channels) {
  Agreement agreement(channels.group_size);
  if (channels.total != nullptr)
    agreement.expect(channels.wire, channels.total, BackwardWire::kHash);
  return agreement;
}

// What the forward pass has left of one channel, on its way.
class SavedInFlight {
 public:
  __device__ SavedInFlight(const BackwardChannels& channels, std::int64_t i)
      : in_place_(channels.in_place),
        mean_(channels.saved + Saved::mean(channels.c, i)),
        invstd_(channels.saved + Saved::invstd(channels.c, i)),
        weight_(channels.weight, i),
        bias_(channels.bias, i) {}

  __device__ double weight() const { return applied_weight(weight_.value_or(1.0), in_place_); }
  __device__ double bias() const { return bias_.value_or(0.0); }
  __device__ double invstd() const { return invstd_.get(); }
  // What makes xhat of the values that are read.
  __device__ Standardization standardization() const {
    if (in_place_) return standardization_in_place(weight(), bias());
    return {mean_.get(), invstd()};
  }
  template <class A>
  __device__ ForwardConstants<A> constants() const {
    return forward_constants<A>(standardization().origin, invstd(), weight(), bias());
  }

 private:
  bool in_place_;
  InFlight<double> mean_, invstd_;
  Parameter weight_, bias_;
};

template <class A>
__device__ BackwardConstants<A> backward_constants(const BackwardChannels& channels,
                                                   std::int64_t i) {
  const SavedInFlight of_forward(channels, i);
  if (channels.total == nullptr) return {of_forward.constants<A>(), A(0), A(0)};
  const InFlight<double> gate(channels.saved + Saved::gate(channels.c, i)),
      rank_factor(channels.saved + Saved::kRankFactor),
      sum_bias(channels.total + BackwardWire::bias(channels.c, i)),
      sum_weight(channels.total + BackwardWire::weight(channels.c, i));
  const ForwardConstants<A> forward = of_forward.constants<A>();
  const auto [origin, unit] = of_forward.standardization();
  const GradientCoefficients k =
      gradient_coefficients(of_forward.weight(), of_forward.invstd(), unit, gate.get(),
                            rank_factor.get(), sum_bias.get(), sum_weight.get());
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
  const T* y;  // or nullptr

  struct Inputs {
    Pack<T, V> x;
    Pack<T, V> dy;
    Pack<T, V> y;
  };
  template <class Positions>
  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece, const Positions&) const {
    inputs.x.load(x + piece.offset);
    inputs.dy.load(dy + piece.offset);
    if (reads_output()) inputs.y.load(y + piece.offset);
  }
  template <class Positions>
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece,
                                            const Positions&) const {
    inputs.x.load_part(x + piece.offset, piece);
    inputs.dy.load_part(dy + piece.offset, piece);
    if (reads_output()) inputs.y.load_part(y + piece.offset, piece);
  }

  __device__ __forceinline__ bool reads_output() const {
    if constexpr (kDerivative == Derivative::kAny) return y != nullptr;
    return kDerivative == Derivative::kFromOutput;
  }
};

// dy' and v - hi of the values of one piece.
template <class T, int V, Derivative kDerivative>
struct Gradients {
  using A = Arithmetic<T>;
  A dy[V];
  A deviation[V];

  template <class Constants>
  __device__ __forceinline__ Gradients(const GradSource<T, V, kDerivative>& source,
                                       const typename GradSource<T, V, kDerivative>::Inputs& inputs,
                                       const Activation<A>& activation,
                                       const Constants& constants) {
    A x[V], y[V] = {};
    inputs.x.unpack(x);
    inputs.dy.unpack(dy);
    if (source.reads_output()) inputs.y.unpack(y);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const ForwardConstants<A>& c = constants(e);
      if (source.reads_output())
        dy[e] = activation.gate_of_output(y[e], dy[e]);
      else if constexpr (kDerivative == Derivative::kFromInput)
        dy[e] = activation.gate(normalized(c, x[e]), dy[e]);
      else if constexpr (kDerivative == Derivative::kAny)
        differentiate(activation, c, x[e], dy[e]);
      deviation[e] = x[e] - c.hi;
    }
  }

 private:
  // In place the value becomes what went into the activation.
  __device__ __forceinline__ static void differentiate(const Activation<A>& activation,
                                                       const ForwardConstants<A>& c, A& value,
                                                       A& dy) {
    if (activation.kind == SYNCNORM_IDENTITY) return;
    if (activation.in_place) {
      dy = activation.gate_of_output(value, dy);
      value = activation.inverse(value, static_cast<A>(elu_saturation(kDigits<T>)));
    } else if (activation.kind == SYNCNORM_ELU) {
      dy = elu_gate(normalized(c, value), dy);
    } else {
      dy = activation.gate(normalized(c, value), dy);
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

  __device__ __forceinline__ void prepare(std::int64_t first, int count,
                                          Constant* constants) const {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
      constants[i] = SavedInFlight(channels, first + i).constants<A>();
  }

  template <class Whole, class Lane>
  __device__ __forceinline__ void add(const Inputs& inputs, const Piece& piece, Whole,
                                      const Lane& lane, A (&sums)[kTerms][V]) const {
    const Gradients<T, V, kDerivative> g(
        *this, inputs, activation, [&](int e) -> const Constant& { return lane.constant(e); });
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
    const auto [origin, unit] = SavedInFlight(channels, channel).standardization();
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
  using Source = GradSource<T, V, kDerivative>;
  using Constant = BackwardConstants<A>;

  const std::uint8_t* mask;  // or nullptr; read where the derivative is kAny
  T* dx;
  T* dresidual;
  Activation<A> activation;
  BackwardChannels channels;

  struct Inputs : Source::Inputs {
    [[no_unique_address]] MaskOfPack<V, kDerivative == Derivative::kAny> counts;
  };
  template <class Positions>
  __device__ __forceinline__ void load(Inputs& inputs, const Piece& piece,
                                       const Positions& positions) const {
    Source::load(inputs, piece, positions);
    if (masked()) load_counts(inputs, piece, positions);
  }
  template <class Positions>
  __device__ __forceinline__ void load_part(Inputs& inputs, const Piece& piece,
                                            const Positions& positions) const {
    Source::load_part(inputs, piece, positions);
    if (masked()) load_counts(inputs, piece, positions);
  }

  __device__ Constant prepare(std::int64_t channel) const {
    return backward_constants<A>(channels, channel);
  }
  __device__ void finish(bool agree) const { finish_channels(channels, agree); }

  // NaN where the ranks do not agree.
  template <class Lane>
  __device__ __forceinline__ void apply(const Inputs& inputs, const Piece& piece, const Lane& lane,
                                        bool agree) const {
    const Gradients<T, V, kDerivative> g(
        *this, inputs, activation,
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
      const bool counts = channels.total != nullptr && counts_at(inputs, piece, e);
      const A value =
          counts ? std::fma(k.forward.scale, g.dy[e], std::fma(k.slope, g.deviation[e], k.offset))
                 : k.forward.scale * g.dy[e];
      values[e] = agree ? value : static_cast<A>(NAN);
    }
    store<T, V>(dx + piece.offset, piece, values);
  }

 private:
  __device__ __forceinline__ bool masked() const {
    return kDerivative == Derivative::kAny && mask != nullptr;
  }
  template <class Positions>
  __device__ __forceinline__ void load_counts(Inputs& inputs, const Piece& piece,
                                              const Positions& positions) const {
    if constexpr (kDerivative == Derivative::kAny) inputs.counts.load(mask, piece, positions);
  }
  __device__ __forceinline__ bool counts_at(const Inputs& inputs, const Piece& piece, int e) const {
    if constexpr (kDerivative == Derivative::kAny)
      return mask == nullptr || (e >= piece.begin && e < piece.end && inputs.counts[e]);
    return true;
  }
};

}  // namespace syncnorm::cuda
