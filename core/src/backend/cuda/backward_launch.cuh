// What the launches of the backward pass share.
#pragma once

#include <type_traits>

#include "backend/cuda/device/backward.cuh"
#include "backend/cuda/launch.cuh"
#include "plan/problem.hpp"
#include "syncbn/syncbn.h"

namespace syncbn::cuda {

// Calls visit(std::integral_constant<Sign, sign>{}).
template <class Visit>
void dispatch_sign(const Problem& problem, const void* y, Visit&& visit) {
  if (problem.options.activation == SYNCBN_IDENTITY)
    visit(std::integral_constant<Sign, Sign::kUnused>{});
  else if (y == nullptr)
    visit(std::integral_constant<Sign, Sign::kFromInput>{});
  else
    visit(std::integral_constant<Sign, Sign::kFromOutput>{});
}

template <class Terms>
Terms grad_terms(const Problem& problem, const syncbn_backward_args& args,
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
Map grad_input_map(const Problem& problem, const syncbn_backward_args& args,
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

}  // namespace syncbn::cuda
