#include "plan/signature.hpp"

#include <bit>

namespace syncnorm {
namespace {

// SplitMix64's mixing function (Steele, Lea, Flood: Fast splittable pseudorandom number
// generators).
constexpr std::uint64_t mix(std::uint64_t state, std::uint64_t value) {
  std::uint64_t z = state + 0x9e3779b97f4a7c15u + value;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

double call_hash(const Problem& problem, Pass pass) {
  const syncnorm_options& options = problem.options;
  const std::uint64_t parts[] = {
      options.tag,
      static_cast<std::uint64_t>(pass),
      static_cast<std::uint64_t>(problem.c),
      std::bit_cast<std::uint64_t>(options.eps),
      static_cast<std::uint64_t>(options.eps_mode),
      static_cast<std::uint64_t>(options.weighting),
      static_cast<std::uint64_t>(options.grad_reduction),
      static_cast<std::uint64_t>(options.activation),
      options.activation == SYNCNORM_LEAKY_RELU
          ? std::bit_cast<std::uint64_t>(options.negative_slope)
          : 0u,
      problem.centered() ? 1u : 0u,
      problem.in_place() ? 1u : 0u,
  };
  std::uint64_t state = 0;
  for (const std::uint64_t part : parts) state = mix(state, part);
  return static_cast<double>(1 + state % 65535);
}

}  // namespace syncnorm
