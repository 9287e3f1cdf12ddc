// What happens to one channel between the passes, from and to the vectors of wire.hpp.
#pragma once

#include <cstdint>

#include "math/moments.hpp"
#include "math/statistics.hpp"
#include "math/wire.hpp"
#include "support/host_device.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm {

inline SYNCNORM_HOST_DEVICE void write_forward_header(double weight, double count, double hash,
                                                      double* wire) {
  wire[ForwardWire::kWeight] = weight;
  wire[ForwardWire::kCount] = count;
  wire[ForwardWire::kHash] = hash;
  wire[ForwardWire::kHash + 1] = hash * hash;
}

inline SYNCNORM_HOST_DEVICE void write_moments(const Moments& m, double weight, std::int64_t c,
                                               std::int64_t i, double* wire) {
  const bool empty = m.count == 0;
  wire[ForwardWire::mean(c, i)] = empty ? 0.0 : weight * m.mean;
  wire[ForwardWire::square(c, i)] = empty ? 0.0 : weight * (variance(m) + m.mean * m.mean);
}

// hash_at: where h stands in this kind of wire; its square follows.
inline SYNCNORM_HOST_DEVICE void write_hash(double hash, std::int64_t hash_at, double* wire) {
  wire[hash_at] = hash;
  wire[hash_at + 1] = hash * hash;
}

// Whether the ranks sent the same wires, as far as their hashes tell; h is this rank's.
inline SYNCNORM_HOST_DEVICE bool hashes_agree(double h, const double* total, std::int64_t hash_at,
                                              std::int64_t group_size) {
  return ranks_agree(h, total[hash_at], total[hash_at + 1], group_size);
}

// Of a forward pass: in both exchanges.
inline SYNCNORM_HOST_DEVICE bool hashes_agree(const double* wire, const double* total,
                                              const double* center_total, std::int64_t group_size) {
  const double h = wire[ForwardWire::kHash];
  return hashes_agree(h, total, ForwardWire::kHash, group_size) &&
         (center_total == nullptr ||
          hashes_agree(center_hash(h), center_total, CenterWire::kHash, group_size));
}

inline SYNCNORM_HOST_DEVICE Statistics statistics_from(const double* total,
                                                       const double* center_total, std::int64_t c,
                                                       std::int64_t i) {
  const double weight = total[ForwardWire::kWeight];
  const double mean = total[ForwardWire::mean(c, i)];
  if (center_total != nullptr)
    return centered_statistics(weight, mean, center_total[CenterWire::kHeader + i]);
  return group_statistics(weight, mean, total[ForwardWire::square(c, i)]);
}

// The entry of the centring wire: W*(var_d + (mean_d - mean)^2).
inline SYNCNORM_HOST_DEVICE double center_entry(const double* wire, const double* total,
                                                double local_var, std::int64_t c, std::int64_t i) {
  const double weight = wire[ForwardWire::kWeight];
  if (!(weight > 0)) return 0.0;
  const std::int64_t at = ForwardWire::mean(c, i);
  const double distance = wire[at] / weight - total[at] / total[ForwardWire::kWeight];
  return weight * (local_var + distance * distance);
}

inline SYNCNORM_HOST_DEVICE double rank_factor_from(const double* wire, const double* total) {
  return rank_factor(wire[ForwardWire::kWeight], wire[ForwardWire::kCount],
                     total[ForwardWire::kWeight]);
}

// A parameter's gradient as it is reported.
inline SYNCNORM_HOST_DEVICE double reduced_gradient(double local, double total,
                                                    syncnorm_grad_reduction reduction,
                                                    std::int64_t group_size) {
  switch (reduction) {
    case SYNCNORM_GRAD_SUM: return total;
    case SYNCNORM_GRAD_MEAN: return total / static_cast<double>(group_size);
    case SYNCNORM_GRAD_LOCAL: break;
  }
  return local;
}

}  // namespace syncnorm
