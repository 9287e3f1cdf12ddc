// From the summed wires to the statistics of the group, and on to the running statistics.
#pragma once

#include <cstdint>

#include "math/moments.hpp"
#include "support/host_device.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

// W: how much a rank with `count` values from `samples` samples weighs.
constexpr SYNCNORM_HOST_DEVICE double rank_weight(syncnorm_weighting weighting, double count,
                                                  double samples) {
  if (count == 0) return 0.0;
  switch (weighting) {
    case SYNCNORM_WEIGHT_EQUAL: return 1.0;
    case SYNCNORM_WEIGHT_BATCH: return samples;
    case SYNCNORM_WEIGHT_COUNT: break;
  }
  return count;
}

// c_d = W/(sum(W)*n): what one value of this rank weighs in the group's mean.
constexpr SYNCNORM_HOST_DEVICE double rank_factor(double weight, double count,
                                                  double total_weight) {
  return weight > 0 ? weight / (total_weight * count) : 0.0;
}

struct Statistics {
  double mean;
  double var;
};

// The statistics of no values at all, where a mask lets nothing count: those of an untouched
// buffer.
constexpr SYNCNORM_HOST_DEVICE Statistics empty_statistics() { return {0.0, 1.0}; }

// var = sum(W*E2)/sum(W) - mean^2
constexpr SYNCNORM_HOST_DEVICE Statistics group_statistics(double total_weight, double total_mean,
                                                           double total_square) {
  if (total_weight == 0) return empty_statistics();
  const double mean = total_mean / total_weight;
  return {mean, clamp_negative(total_square / total_weight - mean * mean)};
}

// var = sum(W*(var_d + (mean_d - mean)^2))/sum(W)
constexpr SYNCNORM_HOST_DEVICE Statistics centered_statistics(double total_weight,
                                                              double total_mean,
                                                              double total_center) {
  if (total_weight == 0) return empty_statistics();
  return {total_mean / total_weight, total_center / total_weight};
}

constexpr SYNCNORM_HOST_DEVICE double bessel(double count) {
  return count > 1 ? count / (count - 1) : 1.0;
}

// The factor on the biased variance that enters running_var.
constexpr SYNCNORM_HOST_DEVICE double variance_factor(syncnorm_variance_factor kind,
                                                      double rank_count, double group_count,
                                                      std::int64_t group_size) {
  switch (kind) {
    case SYNCNORM_VARIANCE_BIASED: return 1.0;
    case SYNCNORM_VARIANCE_UNBIASED_LOCAL:
      return bessel(rank_count * static_cast<double>(group_size));
    case SYNCNORM_VARIANCE_UNBIASED_RANK: return bessel(rank_count);
    case SYNCNORM_VARIANCE_UNBIASED: break;
  }
  return bessel(group_count);
}

// num_batches_tracked after one more batch. On a device it is not validated: a negative count is 0,
// and the greatest one stays.
constexpr SYNCNORM_HOST_DEVICE std::int64_t next_batch(std::int64_t batches) {
  if (batches < 0) return 1;
  return batches < INT64_MAX ? batches + 1 : batches;
}

// momentum itself, or 1/batches for the cumulative average after `batches` batches.
constexpr SYNCNORM_HOST_DEVICE double running_momentum(double momentum, std::int64_t batches) {
  return momentum == SYNCNORM_MOMENTUM_CUMULATIVE ? 1.0 / static_cast<double>(batches) : momentum;
}

constexpr SYNCNORM_HOST_DEVICE double running_average(double old_value, double new_value,
                                                      double momentum) {
  return (1.0 - momentum) * old_value + momentum * new_value;
}

}  // namespace syncnorm
