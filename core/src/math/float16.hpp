// float16 and bfloat16 as storage: conversions that round to nearest, ties to even, on any machine.
#pragma once

#include <bit>
#include <cstdint>

namespace syncnorm {

struct Half {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

constexpr float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

constexpr BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x0040u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

constexpr float to_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity, NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x03ffu) << 13));
  if (magnitude >= 0x0400u)  // normal: move the exponent's bias from 15 to 127
    return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float tiny = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal, zero: exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(tiny));
}

constexpr Half to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto half = [sign](std::uint32_t rest) {
    return Half{static_cast<std::uint16_t>(sign | rest)};
  };
  if (magnitude > 0x7f800000u) return half(0x7e00u | ((magnitude >> 13) & 0x03ffu));  // NaN
  if (magnitude >= 0x477ff000u) return half(0x7c00u);  // rounds to 2^16 or more: infinity
  if (magnitude >= 0x38800000u)                        // normal
    return half((magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13);
  // Subnormal: adding 0.5 makes float32's own rounding leave the wanted bits at the bottom.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
  return half(std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u);
}

}  // namespace syncnorm
