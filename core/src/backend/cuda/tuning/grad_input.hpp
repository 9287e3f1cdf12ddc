#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncbn::cuda::tuning {

inline constexpr Tuning kGradInput{192, 8, 16384};
// Pieces of 16 bytes that a thread loads at a time.
inline constexpr int kGradInputUnroll = 2;

}  // namespace syncbn::cuda::tuning
