#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kNormalize{256, 2, 4};
inline constexpr Tuning kNormalizeResidual{256, 2, 3};
inline constexpr Tuning kNormalizeElu{256, 2, 2};

}  // namespace syncnorm::cuda::tuning
