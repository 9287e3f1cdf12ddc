#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kGradInput{256, 2, 2};
inline constexpr Tuning kGradInputAny{192, 2, 1};

}  // namespace syncnorm::cuda::tuning
