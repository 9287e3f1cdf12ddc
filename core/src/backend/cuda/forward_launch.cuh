// What the launches of the forward pass share.
#pragma once

#include <type_traits>

#include "backend/cuda/device/forward.cuh"
#include "backend/cuda/launch.cuh"
#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

inline ChannelIndex channel_index(const Problem& problem) {
  if (problem.layout == SYNCNORM_CHANNELS_LAST) return {problem.values_per_channel(), problem.c, 1};
  return {problem.n, problem.c, problem.s};
}

// Calls visit(std::integral_constant<Form, form>{}).
template <class Visit>
void dispatch_form(const Problem& problem, const void* residual, Visit&& visit) {
  if (problem.options.activation == SYNCNORM_ELU)
    visit(std::integral_constant<Form, Form::kElu>{});
  else if (residual != nullptr)
    visit(std::integral_constant<Form, Form::kResidual>{});
  else
    visit(std::integral_constant<Form, Form::kPlain>{});
}

template <class Map>
Map normalize_map(const Problem& problem, const syncnorm_forward_args& args,
                  const ForwardChannels& channels) {
  using T = typename Map::T;
  return {static_cast<const T*>(args.x), static_cast<const T*>(args.residual),
          static_cast<T*>(args.y), activation_of<T>(problem.options), channels};
}

}  // namespace syncnorm::cuda
