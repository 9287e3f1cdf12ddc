// Count, mean and sum of squared deviations of a set of values, and how two sets join.
// T. F. Chan, G. H. Golub, R. J. LeVeque: Updating formulae and a pairwise algorithm for computing
// sample variances, 1979.
#pragma once

#include "support/host_device.hpp"

namespace syncnorm {

struct Moments {
  double count = 0;
  double mean = 0;
  double m2 = 0;  // sum of (x - mean)^2
};

// NaN passes: only a comparison that holds replaces the value.
constexpr SYNCNORM_HOST_DEVICE double clamp_negative(double value) {
  return value < 0 ? 0.0 : value;
}

// From the sums of d = x - shift and of d^2.
constexpr SYNCNORM_HOST_DEVICE Moments moments_from_shifted(double count, double shift, double sum,
                                                            double sum_of_squares) {
  if (count == 0) return {};
  const double offset = sum / count;
  return {count, shift + offset, clamp_negative(sum_of_squares - sum * offset)};
}

constexpr SYNCNORM_HOST_DEVICE Moments merge(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count;
  const double delta = b.mean - a.mean;
  const double share = b.count / count;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

constexpr SYNCNORM_HOST_DEVICE double variance(const Moments& m) {
  return m.count > 0 ? m.m2 / m.count : 0.0;
}

}  // namespace syncnorm
