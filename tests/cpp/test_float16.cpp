#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "doctest/doctest.h"
#include "math/float16.hpp"

using syncnorm::BFloat16;
using syncnorm::Half;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a float16, from the definition of the format.
double value_of(Half half) {
  const int exponent = (half.bits >> 10) & 31;
  const int fraction = half.bits & 1023;
  const double sign = (half.bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// Between two neighbours: below, at and above the middle. Even is the one whose last bit is 0.
template <class Narrow, class Value>
void check_rounding(std::uint16_t low, Narrow narrow, Value value) {
  const auto high = static_cast<std::uint16_t>(low + 1);
  const auto middle = static_cast<float>((value(low) + value(high)) / 2);
  const std::uint16_t even = (low & 1) == 0 ? low : high;
  CHECK(narrow(middle) == even);
  CHECK(narrow(std::nextafter(middle, 0.0f)) == low);
  CHECK(narrow(std::nextafter(middle, kInfinity)) == high);
}

}  // namespace

TEST_CASE("every float16 widens to its value and back to itself") {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const Half half{static_cast<std::uint16_t>(i)};
    const float wide = syncnorm::to_float(half);
    if (std::isnan(value_of(half))) {
      CHECK(std::isnan(wide));
      CHECK(std::isnan(syncnorm::to_float(syncnorm::to_half(wide))));
      continue;
    }
    CHECK(static_cast<double>(wide) == value_of(half));
    CHECK(std::signbit(wide) == std::signbit(value_of(half)));
    CHECK(syncnorm::to_half(wide).bits == half.bits);
  }
}

TEST_CASE("float32 rounds to the nearest float16, ties to even") {
  const auto narrow = [](float v) { return syncnorm::to_half(v).bits; };
  const auto value = [](std::uint16_t bits) { return value_of(Half{bits}); };
  for (std::uint16_t low = 0; low < 0x7bff; ++low) check_rounding(low, narrow, value);
  CHECK(narrow(65504.0f) == 0x7bff);
  CHECK(narrow(std::nextafter(65520.0f, 0.0f)) == 0x7bff);
  CHECK(narrow(65520.0f) == 0x7c00);
  CHECK(narrow(-kInfinity) == 0xfc00);
  CHECK(narrow(-0.0f) == 0x8000);
  CHECK(narrow(1e-30f) == 0);
}

TEST_CASE("float32 rounds to the nearest bfloat16, ties to even") {
  const auto narrow = [](float v) { return syncnorm::to_bfloat16(v).bits; };
  const auto value = [](std::uint16_t bits) {
    return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
  };
  for (std::uint16_t low = 0; low < 0x7f7f; ++low) check_rounding(low, narrow, value);
  CHECK(narrow(kInfinity) == 0x7f80);
  CHECK(narrow(std::numeric_limits<float>::max()) == 0x7f80);
  for (const std::uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    CHECK(std::isnan(syncnorm::to_float(syncnorm::to_bfloat16(std::bit_cast<float>(nan)))));
}
