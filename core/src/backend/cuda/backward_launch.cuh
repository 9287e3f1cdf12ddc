// What the launches of the backward pass share.
#pragma once

#include <type_traits>

#include "backend/cuda/device/backward.cuh"
#include "backend/cuda/launch.cuh"
#include "plan/problem.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cuda {

inline Derivative derivative_of(const Problem& problem, const void* y) {
  if (problem.options.activation == SYNCNORM_IDENTITY) return Derivative::kOne;
  if (y != nullptr) return Derivative::kFromOutput;
  const bool by_sign = !problem.in_place() && problem.options.activation != SYNCNORM_ELU;
  return by_sign ? Derivative::kFromInput : Derivative::kAny;
}

// Calls visit(std::integral_constant<Derivative, derivative>{}).
template <class Visit>
void dispatch_derivative(Derivative derivative, Visit&& visit) {
  using enum Derivative;
  switch (derivative) {
    case kOne: return visit(std::integral_constant<Derivative, kOne>{});
    case kFromInput: return visit(std::integral_constant<Derivative, kFromInput>{});
    case kFromOutput: return visit(std::integral_constant<Derivative, kFromOutput>{});
    case kAny: return visit(std::integral_constant<Derivative, kAny>{});
  }
}

template <class Terms>
Terms grad_terms(const Problem& problem, const syncnorm_backward_args& args,
                 const BackwardChannels& channels, double hash, double* wire) {
  using T = typename Terms::T;
  return {{static_cast<const T*>(args.x), static_cast<const T*>(args.dy),
           static_cast<const T*>(args.y)},
          activation_of<T>(problem.options),
          channels,
          wire,
          hash};
}

template <class Map>
Map grad_input_map(const Problem& problem, const syncnorm_backward_args& args,
                   const BackwardChannels& channels) {
  using T = typename Map::T;
  return {{static_cast<const T*>(args.x), static_cast<const T*>(args.dy),
           static_cast<const T*>(args.y)},
          args.mask,
          static_cast<T*>(args.dx),
          static_cast<T*>(args.dresidual),
          activation_of<T>(problem.options),
          channels};
}

}  // namespace syncnorm::cuda
