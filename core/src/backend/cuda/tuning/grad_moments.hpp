#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kGradMoments{256, 8, 16384};
// Pieces of 16 bytes that a thread loads at a time.
inline constexpr int kGradMomentsUnroll = 2;

}  // namespace syncnorm::cuda::tuning
