// e^z and log(1 + y) of vectors, for elu and its inverse. By argument reduction and the plain power
// series, correct to about an ulp whatever the instruction set. Included by kernels_of.hpp alone,
// like simd.hpp.
#pragma once

#include "backend/cpu/simd.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {

template <class A>
struct Format;

template <>
struct Format<float> {
  using Bits = Uint32V;
  static constexpr std::uint32_t kBias = 127;
  static constexpr int kMantissa = 23;
  static constexpr std::uint32_t kHalfRoot = 0x3f3504f3u;  // the bits of sqrt(1/2)
  static constexpr float kRounder = 0x1.8p23f;             // adding it rounds to an integer
  static constexpr float kLn2Hi = 0x1.62e4p-1f;            // times an exponent it is exact
  static constexpr float kLn2Lo = 0x1.7f7d1cp-20f;
  static constexpr float kLowest = -87.0f;  // e^z is a normal number from here on
  static constexpr int kExpTerms = 7;       // of series whose remainders are below half an ulp
  static constexpr int kLogTerms = 4;
};

template <>
struct Format<double> {
  using Bits = Uint64V;
  static constexpr std::uint64_t kBias = 1023;
  static constexpr int kMantissa = 52;
  static constexpr std::uint64_t kHalfRoot = 0x3fe6a09e667f3bcdu;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLn2Hi = 0x1.62e42feep-1;
  static constexpr double kLn2Lo = 0x1.a39ef35793c76p-33;
  static constexpr double kLowest = -708.0;
  static constexpr int kExpTerms = 13;
  static constexpr int kLogTerms = 9;
};

// e^z = power*(1 + rest), where power = 2^n and |rest| < 0.42.
template <class A>
struct Exponential {
  Vector<A> power, rest;
};

constexpr double inverse_factorial(int k) { return k <= 1 ? 1.0 : inverse_factorial(k - 1) / k; }

// For z <= 0; other lanes hold any value.
template <class A>
inline Exponential<A> exponential(Vector<A> z) {
  using F = Format<A>;
  using Bits = typename F::Bits;
  z = z < F::kLowest ? broadcast(F::kLowest) : z;
  // z = n*ln 2 + r. The lowest bits of `shifted` are n.
  const Vector<A> shifted = fma(z, broadcast(A(0x1.71547652b82fep0)), broadcast(F::kRounder));
  const Vector<A> n = shifted - F::kRounder;
  const Vector<A> r = fma(n, broadcast(-F::kLn2Lo), fma(n, broadcast(-F::kLn2Hi), z));
  // rest = r + r^2*(1/2! + r/3! + ...)
  Vector<A> sum = broadcast(static_cast<A>(inverse_factorial(F::kExpTerms)));
  for (int k = F::kExpTerms - 1; k >= 2; --k)
    sum = fma(sum, r, broadcast(static_cast<A>(inverse_factorial(k))));
  const Bits exponent = reinterpret_cast<Bits>(shifted) + F::kBias;
  return {reinterpret_cast<Vector<A>>(exponent << F::kMantissa), fma(r * r, sum, r)};
}

template <class A>
inline Vector<A> exp_of_negative(Vector<A> z) {
  const auto [power, rest] = exponential<A>(z);
  return fma(power, rest, power);
}

// e^z - 1, from -1 on.
template <class A>
inline Vector<A> expm1_of_negative(Vector<A> z) {
  const auto [power, rest] = exponential<A>(z);
  return fma(power, rest, power - A(1));
}

// log(1 + y) for -1 < y <= 0; other lanes hold any value.
template <class A>
inline Vector<A> log1p_of_negative(Vector<A> y) {
  using F = Format<A>;
  using Bits = typename F::Bits;
  // 1 + y = 2^k*(1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). f = 2^-k*y + (2^-k - 1) is exact.
  const Bits one = Bits{} + (F::kBias << F::kMantissa);
  const Bits biased = (reinterpret_cast<Bits>(y + A(1)) + (one - F::kHalfRoot)) >> F::kMantissa;
  const auto power = reinterpret_cast<Vector<A>>((2 * F::kBias - biased) << F::kMantissa);
  const Vector<A> f = fma(power, y, power - A(1));
  const Bits rounder = reinterpret_cast<Bits>(broadcast(F::kRounder));
  const Vector<A> k =
      reinterpret_cast<Vector<A>>(rounder + biased) - (F::kRounder + static_cast<A>(F::kBias));
  // With s = f/(2 + f): log(1 + f) = 2*atanh(s) = f - f^2/2 + s*(f^2/2 + 2*s^2*(1/3 + s^2/5 + ...))
  const Vector<A> s = f / (f + A(2));
  const Vector<A> w = s * s;
  Vector<A> sum = broadcast(A(2) / A(2 * F::kLogTerms + 1));
  for (int j = F::kLogTerms - 1; j >= 1; --j) sum = fma(sum, w, broadcast(A(2) / A(2 * j + 1)));
  const Vector<A> half = A(0.5) * f * f;
  const Vector<A> small = fma(s, fma(sum, w, half), k * F::kLn2Lo);
  return fma(k, broadcast(F::kLn2Hi), f - (half - small));
}

}  // namespace syncnorm::cpu::SYNCNORM_ISA
