// What one rank with the whole batch would compute, in float64 on the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

// Tensors lie as (n, channels, positions).
struct Batch {
  std::size_t n, channels, positions;
  std::vector<float> x, dy, weight, bias;
};

struct Expected {
  std::vector<double> y, dx, gradients, running;
};

constexpr double kEps = 1e-5, kMomentum = 0.1;  // as in syncnorm::Options

// Calls visit(i) for every value of channel c.
template <class Visit>
void each_of_channel(const Batch& batch, std::size_t c, Visit&& visit) {
  for (std::size_t n = 0; n < batch.n; ++n) {
    const std::size_t row = (n * batch.channels + c) * batch.positions;
    for (std::size_t i = row; i < row + batch.positions; ++i) visit(i);
  }
}

inline void compute_channel(const Batch& batch, std::size_t c, int steps, Expected& result) {
  const double count = static_cast<double>(batch.n * batch.positions);
  double mean = 0, var = 0, dweight = 0, dbias = 0;
  each_of_channel(batch, c, [&](std::size_t i) { mean += batch.x[i] / count; });
  each_of_channel(batch, c, [&](std::size_t i) { var += std::pow(batch.x[i] - mean, 2) / count; });
  const double invstd = 1 / std::sqrt(var + kEps);
  const double weight = batch.weight[c];
  each_of_channel(batch, c, [&](std::size_t i) {
    const double xhat = (batch.x[i] - mean) * invstd;
    result.y[i] = weight * xhat + batch.bias[c];
    dweight += batch.dy[i] * xhat;
    dbias += batch.dy[i];
  });
  each_of_channel(batch, c, [&](std::size_t i) {
    const double xhat = (batch.x[i] - mean) * invstd;
    result.dx[i] = weight * invstd * (batch.dy[i] - (dbias + xhat * dweight) / count);
  });
  result.gradients[c] = dweight;
  result.gradients[batch.channels + c] = dbias;
  const double kept = std::pow(1 - kMomentum, steps);  // every step has the same batch
  result.running[c] = (1 - kept) * mean;
  result.running[batch.channels + c] = kept + (1 - kept) * var * count / (count - 1);
}

inline Expected compute_expected(const Batch& batch, int steps) {
  const std::size_t both = 2 * batch.channels;
  Expected result{std::vector<double>(batch.x.size()), std::vector<double>(batch.x.size()),
                  std::vector<double>(both), std::vector<double>(both)};
  for (std::size_t c = 0; c < batch.channels; ++c) compute_channel(batch, c, steps, result);
  return result;
}

// The largest difference between what a rank has and its part of what is expected.
inline double difference(const std::vector<float>& got, const double* expected) {
  double largest = 0;
  for (const float value : got) {
    const double apart = std::abs(value - *expected++);
    if (!(apart <= largest)) largest = apart;  // NaN is a difference
  }
  return largest;
}

inline double largest_of(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}
