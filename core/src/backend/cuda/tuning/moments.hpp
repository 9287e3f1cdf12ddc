#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kMoments{256, 8, 16384};
inline constexpr Tuning kMaskedMoments{128, 16, 16384};
// Pieces of 16 bytes that a thread loads at a time.
inline constexpr int kMomentsUnroll = 4;
inline constexpr int kMaskedMomentsUnroll = 2;

}  // namespace syncnorm::cuda::tuning
