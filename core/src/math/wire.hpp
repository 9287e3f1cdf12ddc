// Where each value stands in the vectors that travel between ranks, and in `saved`.
#pragma once

#include <cstdint>

#include "support/host_device.hpp"

namespace syncnorm {

// Forward: [ W, n, h, h^2,  W*mean[C],  W*E2[C] ]
struct ForwardWire {
  static constexpr std::int64_t kWeight = 0;
  static constexpr std::int64_t kCount = 1;
  static constexpr std::int64_t kHash = 2;
  static constexpr std::int64_t kHeader = 4;
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t length(std::int64_t c) {
    return kHeader + 2 * c;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t mean(std::int64_t, std::int64_t i) {
    return kHeader + i;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t square(std::int64_t c, std::int64_t i) {
    return kHeader + c + i;
  }
};

// Centring: [ h, h^2,  W*(var_d + (mean_d - mean)^2)[C] ], padded with a zero to even length.
struct CenterWire {
  static constexpr std::int64_t kHash = 0;
  static constexpr std::int64_t kHeader = 2;
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t length(std::int64_t c) {
    return kHeader + c + (c & 1);
  }
};

// Backward: [ h, h^2,  sum dy'[C],  sum dy'*xhat[C] ]
struct BackwardWire {
  static constexpr std::int64_t kHash = 0;
  static constexpr std::int64_t kHeader = 2;
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t length(std::int64_t c) {
    return kHeader + 2 * c;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t bias(std::int64_t, std::int64_t i) {
    return kHeader + i;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t weight(std::int64_t c, std::int64_t i) {
    return kHeader + c + i;
  }
};

// Saved for backward: [ W/(sum(W)*n), h,  mean[C],  invstd[C],  gate[C] ], h a hash that identifies
// the forward pass.
struct Saved {
  static constexpr std::int64_t kRankFactor = 0;
  static constexpr std::int64_t kHash = 1;
  static constexpr std::int64_t kHeader = 2;
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t length(std::int64_t c) {
    return kHeader + 3 * c;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t mean(std::int64_t, std::int64_t i) {
    return kHeader + i;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t invstd(std::int64_t c, std::int64_t i) {
    return kHeader + c + i;
  }
  static constexpr SYNCNORM_HOST_DEVICE std::int64_t gate(std::int64_t c, std::int64_t i) {
    return kHeader + 2 * c + i;
  }
};

// Whether all D ranks sent this rank's h. Among D values with the mean h, only equal ones have the
// sum of squares D*h^2. h is an integer below 2^16, so all terms are exact for D below 2^21.
constexpr SYNCNORM_HOST_DEVICE bool ranks_agree(double h, double sum_h, double sum_h2,
                                                std::int64_t group_size) {
  const auto ranks = static_cast<double>(group_size);
  return sum_h == ranks * h && sum_h2 == ranks * (h * h);
}

// The hash of an exchange that belongs to an earlier one with the hash `earlier`, in [1, 65535].
// The factor has no divisor in common with 65535: a difference in one argument alone always shows.
// `earlier` comes from a vector of the caller's.
constexpr SYNCNORM_HOST_DEVICE double following_hash(double earlier, double own) {
  constexpr std::uint32_t kFactor = 40507;
  const bool valid = earlier >= 0 && earlier <= 65535;
  const std::uint32_t first = valid ? static_cast<std::uint32_t>(earlier) : 0;
  return 1 + (first * kFactor + static_cast<std::uint32_t>(own)) % 65535;
}

// The hash in saved after a forward wire with the hash h, in the forward pass that the tag numbers.
constexpr SYNCNORM_HOST_DEVICE double saved_hash(double h, std::uint64_t tag) {
  return following_hash(h, static_cast<double>(1 + (tag & 0xffffffff) % 65535));
}

// The hash of the center wire after a forward wire with the hash h.
constexpr SYNCNORM_HOST_DEVICE double center_hash(double h) { return following_hash(h, 1); }

}  // namespace syncnorm
