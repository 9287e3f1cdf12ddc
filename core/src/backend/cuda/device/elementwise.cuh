// What the two elementwise passes do to one value.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "math/normalization.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

// The mean is hi + lo, where hi has the precision of the arithmetic. Only x - hi is formed for each
// value; what lo contributes is the same for a whole channel and stands in the constants.

// y = act((x - hi)*scale + bias [+ residual]), bias = beta - lo*scale
template <class A>
struct ForwardConstants {
  A hi, scale, bias;
};

// dx = forward.scale*dy' + m*(offset + slope*(v - hi)), where v is x or, in place, act^-1(y); there
// hi is of beta.
template <class A>
struct BackwardConstants {
  ForwardConstants<A> forward;
  A offset, slope;
};

// origin: what is taken from each value, the mean of x in the forward pass.
template <class A>
__device__ inline ForwardConstants<A> forward_constants(double origin, double invstd, double gamma,
                                                        double beta) {
  const double scale = invstd * gamma;
  const auto lo = static_cast<double>(mean_lo<A>(origin));
  return {mean_hi<A>(origin), static_cast<A>(scale), static_cast<A>(beta - lo * scale)};
}

// Before the activation. The same operations wherever it is computed, so that the backward pass
// sees the sign that the forward pass saw.
template <class A>
__device__ __forceinline__ A normalized(const ForwardConstants<A>& c, A x) {
  return std::fma(x - c.hi, c.scale, c.bias);
}

// The kernels for elu are apart from the others, which its functions would take registers from.
template <class A>
struct Activation {
  syncnorm_activation kind;
  bool in_place;  // what the backward passes read as x is y
  A slope;
  A inverse_slope;

  // Not elu. NaN fails the comparison and stays.
  __device__ __forceinline__ A operator()(A z) const { return gate(z, z); }
  // Not elu: dy through the activation whose input, or output, has the sign of z.
  __device__ __forceinline__ A gate(A z, A dy) const {
    if (kind == SYNCNORM_IDENTITY) return dy;
    const A off = kind == SYNCNORM_RELU ? A(0) : dy * slope;
    return z <= 0 ? off : dy;
  }
  // Any activation: dy through the one whose output is y.
  __device__ __forceinline__ A gate_of_output(A y, A dy) const {
    if (kind == SYNCNORM_ELU) return y <= 0 ? dy * (y + 1) : dy;
    return gate(y, dy);
  }
  // In place: what went into the activation. saturation: what elu takes for -1.
  __device__ __forceinline__ A inverse(A y, A saturation) const {
    if (kind != SYNCNORM_ELU) return y <= 0 ? y * inverse_slope : y;
    return y <= -1 ? saturation : y <= 0 ? std::log1p(y) : y;
  }
};

template <class A>
__device__ __forceinline__ A elu(A z) {
  return z <= 0 ? std::expm1(z) : z;
}

// dy through elu, whose input is z.
template <class A>
__device__ __forceinline__ A elu_gate(A z, A dy) {
  return z <= 0 ? dy * std::exp(z) : dy;
}

}  // namespace syncnorm::cuda
