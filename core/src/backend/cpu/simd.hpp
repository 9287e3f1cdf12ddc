// Vectors of the instruction set that this translation unit is compiled for (SYNCBN_ISA), on GCC's and
// Clang's vector extensions; only what those do not offer is written per instruction set.
//
// Included by kernels.cpp alone, inside no namespace; everything is local to syncbn::cpu::SYNCBN_ISA.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "math/float16.hpp"

namespace syncbn::cpu::SYNCBN_ISA {

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
  return reinterpret_cast<Uint16V>(
      _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<Uint16V>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
  Uint16V bits;
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = to_half(value[i]).bits;
  return bits;
#endif
}

// Loads and stores of storage types as vectors of their arithmetic type.

inline FloatV load(Whole, const float* from) { return load_bytes<FloatV>(from); }
inline DoubleV load(Whole, const double* from) { return load_bytes<DoubleV>(from); }
inline FloatV load(Whole, const BFloat16* from) { return widen_bfloat16(load_bytes<Uint16V>(from)); }
inline FloatV load(Whole, const Half* from) { return widen_half(load_bytes<Uint16V>(from)); }

inline void store(Whole, float* to, FloatV v) { store_bytes(to, v); }
inline void store(Whole, double* to, DoubleV v) { store_bytes(to, v); }
inline void store(Whole, BFloat16* to, FloatV v) { store_bytes(to, narrow_bfloat16(v)); }
inline void store(Whole, Half* to, FloatV v) { store_bytes(to, narrow_half(v)); }

#if defined(__AVX512F__)

inline __mmask16 mask16(Part part) { return static_cast<__mmask16>((1u << part.count) - 1u); }
inline __mmask8 mask8(Part part) { return static_cast<__mmask8>((1u << part.count) - 1u); }

inline FloatV load(Part part, const float* from) {
  return _mm512_maskz_loadu_ps(mask16(part), from);
}
inline DoubleV load(Part part, const double* from) {
  return _mm512_maskz_loadu_pd(mask8(part), from);
}
inline Uint16V load_part_bits(Part part, const void* from) {
  return reinterpret_cast<Uint16V>(_mm256_maskz_loadu_epi16(mask16(part), from));
}
inline FloatV load(Part part, const BFloat16* from) {
  return widen_bfloat16(load_part_bits(part, from));
}
inline FloatV load(Part part, const Half* from) { return widen_half(load_part_bits(part, from)); }

inline void store(Part part, float* to, FloatV v) { _mm512_mask_storeu_ps(to, mask16(part), v); }
inline void store(Part part, double* to, DoubleV v) { _mm512_mask_storeu_pd(to, mask8(part), v); }
inline void store_part_bits(Part part, void* to, Uint16V bits) {
  _mm256_mask_storeu_epi16(to, mask16(part), reinterpret_cast<__m256i>(bits));
}
inline void store(Part part, BFloat16* to, FloatV v) {
  store_part_bits(part, to, narrow_bfloat16(v));
}
inline void store(Part part, Half* to, FloatV v) { store_part_bits(part, to, narrow_half(v)); }

#else

// Through a padded copy: nothing beyond the part is touched.
template <class T>
inline Vector<Arithmetic<T>> load(Part part, const T* from) {
  T padded[kLanes<Arithmetic<T>>] = {};
  for (int i = 0; i < part.count; ++i) padded[i] = from[i];
  return load(Whole{}, padded);
}

template <class T>
inline void store(Part part, T* to, Vector<Arithmetic<T>> v) {
  T padded[kLanes<Arithmetic<T>>];
  store(Whole{}, padded, v);
  for (int i = 0; i < part.count; ++i) to[i] = padded[i];
}

#endif

// Stores past the caches, for outputs too large to be found there again. Addresses are multiples of the
// vector's size; end_streaming() makes the stores visible before other threads are told.
struct Streamed {};

template <class T>
inline Vector<Arithmetic<T>> load(Streamed, const T* from) {
  return load(Whole{}, from);
}

#if defined(__x86_64__)

inline void stream_bytes(void* to, const void* from, std::integral_constant<int, 64>) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_loadu_si512(from));
#else
  std::memcpy(to, from, 64);
#endif
}
inline void stream_bytes(void* to, const void* from, std::integral_constant<int, 32>) {
#if defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(to),
                      _mm256_loadu_si256(static_cast<const __m256i*>(from)));
#else
  std::memcpy(to, from, 32);
#endif
}
inline void stream_bytes(void* to, const void* from, std::integral_constant<int, 16>) {
  _mm_stream_si128(static_cast<__m128i*>(to), _mm_loadu_si128(static_cast<const __m128i*>(from)));
}
inline void stream_bytes(void* to, const void* from, std::integral_constant<int, 8>) {
  long long bits;
  std::memcpy(&bits, from, 8);
  _mm_stream_si64(static_cast<long long*>(to), bits);
}
inline void end_streaming() { _mm_sfence(); }
inline constexpr bool kCanStream = true;

#else

template <int kBytes>
inline void stream_bytes(void* to, const void* from, std::integral_constant<int, kBytes>) {
  std::memcpy(to, from, kBytes);
}
inline void end_streaming() {}
inline constexpr bool kCanStream = false;

#endif

template <class T>
inline void store(Streamed, T* to, Vector<Arithmetic<T>> v) {
  constexpr int kCount = kLanes<Arithmetic<T>>;
  T narrowed[kCount];
  store(Whole{}, narrowed, v);
  stream_bytes(to, narrowed, std::integral_constant<int, kCount * static_cast<int>(sizeof(T))>{});
}

// All bits set where the byte is not 0.
template <class A, class Lanes>
inline IndexVector<A> load_flags(Lanes lanes, const std::uint8_t* from) {
  using Bytes = std::conditional_t<std::is_same_v<A, double>, Byte8V, Byte4V>;
  Bytes bytes{};
  if constexpr (std::is_same_v<Lanes, Part>)
    for (int i = 0; i < lanes.count; ++i) bytes[i] = from[i];
  else
    std::memcpy(&bytes, from, sizeof(Bytes));
  return __builtin_convertvector(bytes, IndexVector<A>) != 0;
}

// body(offset, Whole or Part) over `length` consecutive values.
template <class A, class Body>
inline void for_vectors(std::int64_t length, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes<A> <= length; i += kLanes<A>) body(i, Whole{});
  if (i < length) body(i, Part{static_cast<int>(length - i)});
}

// The same, for a loop that writes to `out` at the same offsets: with `stream` in stores past the caches.
template <class T, class Body>
inline void for_output_vectors(std::int64_t length, const T* out, bool stream, Body&& body) {
  using A = Arithmetic<T>;
  constexpr std::int64_t kBytes = kLanes<A> * static_cast<std::int64_t>(sizeof(T));
  const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(out) % kBytes);
  if (!kCanStream || !stream || beyond % static_cast<std::int64_t>(sizeof(T)) != 0)
    return for_vectors<A>(length, body);
  std::int64_t i = (kBytes - beyond) % kBytes / static_cast<std::int64_t>(sizeof(T));
  if (i > length) i = length;
  if (i > 0) body(std::int64_t{0}, Part{static_cast<int>(i)});
  for (; i + kLanes<A> <= length; i += kLanes<A>) body(i, Streamed{});
  if (i < length) body(i, Part{static_cast<int>(length - i)});
}

}  // namespace syncbn::cpu::SYNCBN_ISA
