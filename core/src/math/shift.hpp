// The value that is taken from all others before they are summed, so that squares do not cancel.
#pragma once

#include <cstdint>
#include <type_traits>

#include "support/host_device.hpp"

namespace syncnorm {

template <class A>
inline SYNCNORM_HOST_DEVICE A exponent_only(A value) {
  using Bits = std::conditional_t<std::is_same_v<A, double>, std::uint64_t, std::uint32_t>;
  constexpr Bits kExponent =
      std::is_same_v<A, double> ? Bits(0x7ff0000000000000u) : Bits(0x7f800000u);
  return __builtin_bit_cast(A, static_cast<Bits>(__builtin_bit_cast(Bits, value) & kExponent));
}

// A value near the mean, from the mean and the spread of a sample: the mean rounded to a sixteenth
// of the spread or coarser. Near enough for x - shift to be small, and coarse enough for the
// differences of exactly representable data to stay exactly representable.
template <class A>
inline SYNCNORM_HOST_DEVICE A shift_near(A mean, A spread) {
  // Adding and subtracting 1.5*2^mantissa_bits*grid rounds to a multiple of grid.
  constexpr A kRounder = std::is_same_v<A, double> ? A(0x1.8p52) : A(0x1.8p23);
  const A grid = exponent_only(spread) * A(0.0625);
  const A magic = grid * kRounder;
  const A shift = (mean + magic) - magic;
  return shift - shift == 0 ? shift : A(0);  // not finite: zero
}

}  // namespace syncnorm
