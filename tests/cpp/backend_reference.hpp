// Synchronized batch normalization over a list of shards, in plain float64 loops written from
// docs/mathematics.md: what every backend is compared with. Knows nothing of the core.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "syncnorm/syncnorm.h"

namespace reference {

struct Shard {
  std::int64_t n, c, s;
  std::vector<double> x, residual, dy;  // (n, c, s), channels first; residual may be empty
  std::vector<std::uint8_t> mask;       // (n, s); may be empty
  std::vector<double> output;           // y as it was stored, where backward starts from it
};

struct ShardResult {
  std::vector<double> y, dx, dresidual, dweight, dbias;
};

struct Result {
  std::vector<double> mean, var, running_mean, running_var;
  std::vector<double> scale;  // weight/std
  double amplification;       // of an error of y in the xhat that is recovered from it
  std::vector<ShardResult> shards;
};

struct Problem {
  syncnorm_options options;
  std::vector<double> weight, bias, running_mean, running_var;
  int digits;  // significant bits of y
};

inline bool counts(const Shard& shard, std::int64_t n, std::int64_t s) {
  return shard.mask.empty() || shard.mask[static_cast<std::size_t>(n * shard.s + s)] != 0;
}

template <class Visit>
void for_values(const Shard& shard, std::int64_t c, Visit&& visit) {
  for (std::int64_t n = 0; n < shard.n; ++n)
    for (std::int64_t s = 0; s < shard.s; ++s)
      visit(static_cast<std::size_t>((n * shard.c + c) * shard.s + s), counts(shard, n, s));
}

inline double count_of(const Shard& shard) {
  double count = 0;
  for (std::int64_t n = 0; n < shard.n; ++n)
    for (std::int64_t s = 0; s < shard.s; ++s) count += counts(shard, n, s);
  return count;
}

inline double weight_of(const Shard& shard, syncnorm_weighting weighting) {
  const double count = count_of(shard);
  if (count == 0) return 0;
  if (weighting == SYNCNORM_WEIGHT_EQUAL) return 1;
  return weighting == SYNCNORM_WEIGHT_BATCH ? static_cast<double>(shard.n) : count;
}

// Every value with the weight of its rank shared among the rank's values.
inline void statistics(const Problem& problem, const std::vector<Shard>& shards, std::int64_t c,
                       double& mean, double& var) {
  double total = 0;
  for (const Shard& shard : shards) total += weight_of(shard, problem.options.weighting);
  long double sum = 0, square = 0;
  const auto add = [&](long double& to, auto&& term) {
    for (const Shard& shard : shards) {
      const double share = weight_of(shard, problem.options.weighting) / (total * count_of(shard));
      for_values(shard, c, [&](std::size_t i, bool counted) {
        if (counted) to += share * term(shard.x[i]);
      });
    }
  };
  add(sum, [](double x) { return static_cast<long double>(x); });
  add(square, [&](double x) { return (x - sum) * (x - sum); });
  mean = static_cast<double>(sum);
  var = static_cast<double>(square);
}

inline double activation(const syncnorm_options& options, double z) {
  if (options.activation == SYNCNORM_IDENTITY || z > 0) return z;
  if (options.activation == SYNCNORM_ELU) return std::expm1(z);
  return options.activation == SYNCNORM_RELU ? 0.0 : options.negative_slope * z;
}

inline double activation_slope(const syncnorm_options& options, double z) {
  if (options.activation == SYNCNORM_IDENTITY || z > 0) return 1;
  if (options.activation == SYNCNORM_ELU) return std::exp(z);
  return options.activation == SYNCNORM_RELU ? 0.0 : options.negative_slope;
}

// What went into the activation; -1 came out of elu where that is rounded to it.
inline double inverse(const Problem& problem, double y) {
  const syncnorm_options& options = problem.options;
  if (options.activation == SYNCNORM_IDENTITY || y > 0) return y;
  if (options.activation == SYNCNORM_LEAKY_RELU) return y / options.negative_slope;
  return y > -1 ? std::log1p(y) : -(problem.digits + 1) * std::log(2.0);
}

// As it is applied: in place not nearer to 0 than 2^-12.
inline double weight(const Problem& problem, std::size_t c) {
  const double given = problem.weight[c], least = 0x1p-12;
  if (problem.options.in_place == 0 || std::abs(given) >= least) return given;
  return given < 0 ? -least : least;
}

// What the backward pass needs of one value, of which xhat and z are right for x.
struct Linearized {
  double xhat, slope;
};

inline Linearized linearized(const Problem& problem, const Shard& shard, std::size_t i,
                             std::size_t c, double xhat, double z) {
  if (shard.output.empty()) return {xhat, activation_slope(problem.options, z)};
  const double y = shard.output[i];
  const bool curved = problem.options.activation == SYNCNORM_ELU && y <= 0;
  const double slope = curved ? y + 1 : activation_slope(problem.options, y);
  if (problem.options.in_place == 0) return {xhat, slope};
  return {(inverse(problem, y) - problem.bias[c]) / weight(problem, c), slope};
}

inline void channel(const Problem& problem, const std::vector<Shard>& shards, std::int64_t c,
                    Result& result) {
  const auto at = static_cast<std::size_t>(c);
  const syncnorm_options& options = problem.options;
  double mean = 0, var = 0, total = 0, count = 0, sum_bias = 0, sum_weight = 0;
  statistics(problem, shards, c, mean, var);
  const bool clamped = options.eps_mode == SYNCNORM_EPS_MAX && var < options.eps;
  const double invstd = 1 / std::sqrt(clamped                                ? options.eps
                                      : options.eps_mode == SYNCNORM_EPS_MAX ? var
                                                                             : var + options.eps);
  const double gamma = weight(problem, at), beta = problem.bias[at];
  std::vector<std::vector<double>> grads(shards.size()), xhats(shards.size());
  for (std::size_t r = 0; r < shards.size(); ++r) {
    const Shard& shard = shards[r];
    total += weight_of(shard, options.weighting);
    count += count_of(shard);
    ShardResult& out = result.shards[r];
    grads[r].resize(shard.x.size());
    xhats[r].resize(shard.x.size());
    for_values(shard, c, [&](std::size_t i, bool) {
      const double xhat = (shard.x[i] - mean) * invstd;
      const double z = xhat * gamma + beta + (shard.residual.empty() ? 0 : shard.residual[i]);
      out.y[i] = activation(options, z);
      const Linearized own = linearized(problem, shard, i, at, xhat, z);
      const double g = shard.dy[i] * own.slope;
      grads[r][i] = out.dresidual[i] = g;
      xhats[r][i] = own.xhat;
      out.dbias[at] += g;
      out.dweight[at] += g * own.xhat;
    });
    sum_bias += out.dbias[at];
    sum_weight += out.dweight[at];
  }
  for (std::size_t r = 0; r < shards.size(); ++r) {
    const Shard& shard = shards[r];
    const double factor = weight_of(shard, options.weighting) / (total * count_of(shard));
    for_values(shard, c, [&](std::size_t i, bool counted) {
      const double pull = sum_bias + (clamped ? 0 : xhats[r][i] * sum_weight);
      const double shared = counted ? factor * pull : 0;
      result.shards[r].dx[i] = gamma * invstd * (grads[r][i] - shared);
    });
  }
  const double m = options.momentum;
  result.mean[at] = mean, result.var[at] = var, result.scale[at] = gamma * invstd;
  if (options.in_place != 0)
    result.amplification = std::max(result.amplification, 1 + std::abs(beta / gamma));
  result.running_mean[at] = (1 - m) * problem.running_mean[at] + m * mean;
  result.running_var[at] =
      (1 - m) * problem.running_var[at] + m * var * (count > 1 ? count / (count - 1) : 1);
}

inline Result run(const Problem& problem, const std::vector<Shard>& shards) {
  const std::size_t c = problem.weight.size();
  const std::vector<double> zeros(c);
  Result result{zeros, zeros, zeros, zeros, zeros, 1, {}};
  for (const Shard& shard : shards) {
    const std::vector<double> values(shard.x.size());
    result.shards.push_back({values, values, values, zeros, zeros});
  }
  for (std::size_t i = 0; i < c; ++i)
    channel(problem, shards, static_cast<std::int64_t>(i), result);
  return result;
}

}  // namespace reference
