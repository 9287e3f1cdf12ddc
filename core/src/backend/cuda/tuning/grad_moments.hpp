#pragma once

#include "backend/cuda/tuning/tuning.hpp"

namespace syncnorm::cuda::tuning {

inline constexpr Tuning kGradMoments{256, 2, 3};
inline constexpr Tuning kGradMomentsFromInput{192, 2, 4};
inline constexpr Tuning kGradMomentsFromOutput{256, 2, 2};
inline constexpr Tuning kGradMomentsAny{192, 2, 2};

}  // namespace syncnorm::cuda::tuning
