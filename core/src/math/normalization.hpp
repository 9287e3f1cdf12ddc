// The per-channel constants of the two elementwise passes, and what those passes compute.
//
//   forward    y  = act( (x - mean)*invstd*gamma + beta [+ residual] )
//   backward   dx = gamma*invstd*( dy' - m*c_d*(Sb + xhat*Sg*gate) )
//
// x - mean is formed as (x - mean_hi) - mean_lo, so that the mean keeps its float64 precision. In
// place, where y is there instead of x, the same is done to z = act^-1(y) and beta.
#pragma once

#include <cmath>

#include "support/host_device.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

struct InverseDeviation {
  double invstd;
  double gate;  // derivative of max(var, eps) by var; 1 where eps is added
};

inline SYNCNORM_HOST_DEVICE InverseDeviation inverse_deviation(double var, double eps,
                                                               syncnorm_eps_mode mode) {
  if (mode == SYNCNORM_EPS_ADD) return {1.0 / std::sqrt(var + eps), 1.0};
  const bool clamped = var < eps;  // false for NaN, which passes
  return {1.0 / std::sqrt(clamped ? eps : var), clamped ? 0.0 : 1.0};
}

template <class Arithmetic>
constexpr SYNCNORM_HOST_DEVICE Arithmetic mean_hi(double mean) {
  return static_cast<Arithmetic>(mean);
}

// 0 where the rounded mean is not finite: the first subtraction shows it already.
template <class Arithmetic>
constexpr SYNCNORM_HOST_DEVICE Arithmetic mean_lo(double mean) {
  const double rest = mean - static_cast<double>(static_cast<Arithmetic>(mean));
  return rest == rest && rest - rest == 0 ? static_cast<Arithmetic>(rest) : Arithmetic(0);
}

// gamma as it is applied. In place it is divided by, and keeps away from 0; NaN passes.
constexpr SYNCNORM_HOST_DEVICE double applied_weight(double gamma, bool in_place) {
  constexpr double kLeast = SYNCNORM_IN_PLACE_LEAST_WEIGHT;
  const bool small = gamma > -kLeast && gamma < kLeast;
  if (!in_place || !small) return gamma;
  return gamma < 0 ? -kLeast : kLeast;
}

// xhat = (v - origin)*unit, where v is x with {mean, invstd} or, in place, z = act^-1(y).
struct Standardization {
  double origin;
  double unit;
};

constexpr SYNCNORM_HOST_DEVICE Standardization standardization_in_place(double gamma, double beta) {
  return {beta, 1.0 / gamma};
}

// Where elu rounds to -1 in a dtype of `digits` significant bits, whose inverse there is this: the
// logarithm of half the distance from -1 to the next value.
constexpr SYNCNORM_HOST_DEVICE double elu_saturation(int digits) {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  return -(digits + 1) * kLn2;
}

// dx = scale*dy' + m*(offset + slope*(v - origin))
struct GradientCoefficients {
  double scale;
  double offset;
  double slope;
};

constexpr SYNCNORM_HOST_DEVICE GradientCoefficients
gradient_coefficients(double gamma, double invstd, double unit, double gate, double rank_factor,
                      double sum_bias, double sum_weight) {
  const double scale = gamma * invstd;
  return {scale, -scale * rank_factor * sum_bias, -scale * rank_factor * sum_weight * gate * unit};
}

}  // namespace syncnorm
