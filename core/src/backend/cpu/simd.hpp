// Vectors of the instruction set that this translation unit is compiled for (SYNCNORM_ISA), on
// GCC's and Clang's vector extensions; only what those do not offer is written per instruction set.
//
// Included by kernels_of.hpp alone, inside no namespace; everything is local to
// syncnorm::cpu::SYNCNORM_ISA.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "math/float16.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

typedef float FloatV __attribute__((vector_size(kVectorBytes)));
typedef double DoubleV __attribute__((vector_size(kVectorBytes)));
typedef std::int32_t Int32V __attribute__((vector_size(kVectorBytes)));
typedef std::int64_t Int64V __attribute__((vector_size(kVectorBytes)));
typedef std::uint32_t Uint32V __attribute__((vector_size(kVectorBytes)));
typedef std::uint64_t Uint64V __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t Uint16V __attribute__((vector_size(kVectorBytes / 2)));
typedef std::uint8_t Byte4V __attribute__((vector_size(kVectorBytes / 4)));  // a byte per float
typedef std::uint8_t Byte8V __attribute__((vector_size(kVectorBytes / 8)));  // a byte per double

// The arithmetic type of a storage type, its vector, and the number of lanes.
template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <class A>
using Vector = std::conditional_t<std::is_same_v<A, double>, DoubleV, FloatV>;
template <class A>
using IndexVector = std::conditional_t<std::is_same_v<A, double>, Int64V, Int32V>;
template <class A>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

template <class A>
inline Vector<A> broadcast(A value) {
  return value - Vector<A>{};  // value - 0 keeps every value, -0 included
}

// One vector of consecutive values, whole or the first `count` lanes of it.
struct Whole {};
struct Part {
  int count;
};

template <class A>
inline Vector<A> keep(Whole, Vector<A> v) {
  return v;
}

// Zero in the lanes that are not part.
template <class A>
inline Vector<A> keep(Part part, Vector<A> v) {
  using Index = IndexVector<A>;
  using I = std::conditional_t<std::is_same_v<A, double>, std::int64_t, std::int32_t>;
  Index lane;
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = static_cast<I>(i);
  return lane < (Index{} + static_cast<I>(part.count)) ? v : Vector<A>{};
}

inline FloatV fma(FloatV a, FloatV b, FloatV c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  for (int i = 0; i < kLanes<float>; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
#else
  return a * b + c;
#endif
}

inline DoubleV fma(DoubleV a, DoubleV b, DoubleV c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  for (int i = 0; i < kLanes<double>; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
#else
  return a * b + c;
#endif
}

// Sum of the lanes in float64, in pairs.
template <class A>
inline double sum_lanes(Vector<A> v) {
  double lanes[kLanes<A>];
  for (int i = 0; i < kLanes<A>; ++i) lanes[i] = static_cast<double>(v[i]);
  for (int width = kLanes<A> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <class V, class T>
inline V load_bytes(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <class V, class T>
inline void store_bytes(T* to, V v) {
  std::memcpy(to, &v, sizeof(V));
}

// float <-> bfloat16

// __builtin_convertvector says the same, but GCC 12 takes five instructions for it.
inline Uint32V widen_bits(Uint16V bits) {
#if defined(__AVX512F__)
  return reinterpret_cast<Uint32V>(
      _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(bits)));
#elif defined(__AVX2__)
  return reinterpret_cast<Uint32V>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)));
#else
  return __builtin_convertvector(bits, Uint32V);
#endif
}

inline Uint16V narrow_bits(Uint32V bits) {  // each below 2^16
#if defined(__AVX512F__)
  return reinterpret_cast<Uint16V>(
      _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(bits)));
#elif defined(__AVX2__)
  const auto wide = reinterpret_cast<__m256i>(bits);
  return reinterpret_cast<Uint16V>(
      _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
#else
  return __builtin_convertvector(bits, Uint16V);
#endif
}

inline FloatV widen_bfloat16(Uint16V bits) {
  return reinterpret_cast<FloatV>(widen_bits(bits) << 16);
}

inline Uint16V narrow_bfloat16(FloatV value) {
  const auto bits = reinterpret_cast<Uint32V>(value);
  const Uint32V rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Uint32V quiet = (bits >> 16) | 0x0040u;
  return narrow_bits(value == value ? rounded : quiet);
}

// float <-> float16

inline FloatV widen_half(Uint16V bits) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(bits));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(reinterpret_cast<__m128i>(bits));
#else
  FloatV v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_float(Half{bits[i]});
  return v;
#endif
}

inline Uint16V narrow_half(FloatV value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Uint16V>(_mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<Uint16V>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  Uint16V bits;
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = to_half(value[i]).bits;
  return bits;
#endif
}

}  // namespace syncnorm::cpu::SYNCNORM_ISA
