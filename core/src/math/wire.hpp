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

// Saved for backward: [ W/(sum(W)*n), 0,  mean[C],  invstd[C],  gate[C] ]
struct Saved {
  static constexpr std::int64_t kRankFactor = 0;
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

// With the same h on all D ranks D*sum(h^2) equals sum(h)^2; otherwise it is greater
// (Cauchy-Schwarz). h is an integer below 2^16, so both sides are exact, or round alike, for any D
// below 2^21.
constexpr SYNCNORM_HOST_DEVICE bool ranks_agree(double sum_h, double sum_h2,
                                                std::int64_t group_size) {
  return static_cast<double>(group_size) * sum_h2 == sum_h * sum_h;
}

}  // namespace syncnorm
