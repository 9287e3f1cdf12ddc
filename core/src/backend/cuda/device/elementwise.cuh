// What the two elementwise passes do to one value.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "math/normalization.hpp"
#include "syncbn/syncbn.h"

namespace syncbn::cuda {

// The mean is hi + lo, where hi has the precision of the arithmetic. Only x - hi is formed for each
// value; what lo contributes is the same for a whole channel and stands in the constants.

// y = act((x - hi)*scale + bias [+ residual]), bias = beta - lo*scale
template <class A>
struct ForwardConstants {
  A hi, scale, bias;
};

// dx = forward.scale*dy' + m*(offset + slope*(x - hi))
template <class A>
struct BackwardConstants {
  ForwardConstants<A> forward;
  A offset, slope;
};

template <class A>
__device__ inline ForwardConstants<A> forward_constants(double mean, double invstd, double gamma,
                                                        double beta) {
  const double scale = invstd * gamma;
  const auto lo = static_cast<double>(mean_lo<A>(mean));
  return {mean_hi<A>(mean), static_cast<A>(scale), static_cast<A>(beta - lo * scale)};
}

// Before the activation. The same operations wherever it is computed, so that the backward pass
// sees the sign that the forward pass saw.
template <class A>
__device__ __forceinline__ A normalized(const ForwardConstants<A>& c, A x) {
  return std::fma(x - c.hi, c.scale, c.bias);
}

template <class A>
struct Activation {
  syncbn_activation kind;
  A slope;

  // NaN fails the comparison and stays.
  __device__ __forceinline__ A operator()(A z) const { return gate(z, z); }
  // dy through the activation whose input, or output, has the sign of z.
  __device__ __forceinline__ A gate(A z, A dy) const {
    if (kind == SYNCBN_IDENTITY) return dy;
    const A off = kind == SYNCBN_RELU ? A(0) : dy * slope;
    return z <= 0 ? off : dy;
  }
};

}  // namespace syncbn::cuda
