// The per-channel constants of the two elementwise passes, and what those passes compute.
//
//   forward    y  = act( (x - mean)*invstd*gamma + beta [+ residual] )
//   backward   dx = gamma*invstd*( dy' - m*c_d*(Sb + xhat*Sg*gate) )
//
// x - mean is formed as (x - mean_hi) - mean_lo, so that the mean keeps its float64 precision.
#pragma once

#include <cmath>

#include "support/host_device.hpp"
#include "syncbn/syncbn.h"

namespace syncbn {

struct InverseDeviation {
  double invstd;
  double gate;  // derivative of max(var, eps) by var; 1 where eps is added
};

inline SYNCBN_HOST_DEVICE InverseDeviation inverse_deviation(double var, double eps,
                                                             syncbn_eps_mode mode) {
  if (mode == SYNCBN_EPS_ADD) return {1.0 / std::sqrt(var + eps), 1.0};
  const bool clamped = var < eps;  // false for NaN, which passes
  return {1.0 / std::sqrt(clamped ? eps : var), clamped ? 0.0 : 1.0};
}

template <class Arithmetic>
constexpr SYNCBN_HOST_DEVICE Arithmetic mean_hi(double mean) {
  return static_cast<Arithmetic>(mean);
}

// 0 where the rounded mean is not finite: the first subtraction shows it already.
template <class Arithmetic>
constexpr SYNCBN_HOST_DEVICE Arithmetic mean_lo(double mean) {
  const double rest = mean - static_cast<double>(static_cast<Arithmetic>(mean));
  return rest == rest && rest - rest == 0 ? static_cast<Arithmetic>(rest) : Arithmetic(0);
}

// dx = scale*dy' + m*(offset + slope*(x - mean))
struct GradientCoefficients {
  double scale;
  double offset;
  double slope;
};

constexpr SYNCBN_HOST_DEVICE GradientCoefficients gradient_coefficients(double gamma, double invstd,
                                                                        double gate,
                                                                        double rank_factor,
                                                                        double sum_bias,
                                                                        double sum_weight) {
  const double scale = gamma * invstd;
  return {scale, -scale * rank_factor * sum_bias,
          -scale * rank_factor * sum_weight * gate * invstd};
}

}  // namespace syncbn
