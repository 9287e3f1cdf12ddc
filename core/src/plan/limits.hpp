// Bounds of the numbers that callers pass. Within them no later arithmetic on sizes wraps.
// syncnorm.h documents them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace syncnorm {

// Of N*C*S, where a size of 0 counts as 1: the lengths of an empty tensor's wires are bounded too,
// and numbers of values are exact in float64.
inline constexpr std::int64_t kMaxValues = std::int64_t{1} << 48;
// Up to this number of ranks sums of their hashes and squared hashes are exact.
inline constexpr std::int64_t kMaxGroupSize = std::int64_t{1} << 21;
inline constexpr std::int32_t kMaxThreads = 4096;

// Whether the product of sizes >= 0, each counted as at least 1, is at most kMaxValues.
constexpr bool fits(std::initializer_list<std::int64_t> sizes) {
  std::int64_t room = kMaxValues;
  for (const std::int64_t size : sizes) room /= std::max<std::int64_t>(size, 1);
  return room > 0;
}

}  // namespace syncnorm
