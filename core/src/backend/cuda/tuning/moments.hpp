#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kMoments{256, 2, 8};
inline constexpr Tuning kMaskedMoments{128, 2, 4};

}  // namespace syncnorm::cuda::tuning
