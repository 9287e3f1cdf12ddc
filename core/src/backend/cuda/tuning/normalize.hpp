#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kNormalize{256, 8, 16384};
// Pieces of 16 bytes that a thread loads at a time.
inline constexpr int kNormalizeUnroll = 4;
inline constexpr int kNormalizeEluUnroll = 2;  // with more it spills

}  // namespace syncnorm::cuda::tuning
