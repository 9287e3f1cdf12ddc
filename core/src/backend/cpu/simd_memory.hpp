// Loads and stores of vectors, and the loops over them. Included by kernels_of.hpp alone, like
// simd.hpp.
#pragma once

#include "backend/cpu/simd.hpp"
#include "backend/cpu/tuning.hpp"

namespace syncnorm::cpu::SYNCNORM_ISA {

// Loads and stores of storage types as vectors of their arithmetic type.

inline FloatV load(Whole, const float* from) { return load_bytes<FloatV>(from); }
inline DoubleV load(Whole, const double* from) { return load_bytes<DoubleV>(from); }
inline FloatV load(Whole, const BFloat16* from) {
  return widen_bfloat16(load_bytes<Uint16V>(from));
}
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

// Stores past the caches, for outputs too large to be found there again. Addresses are multiples of
// the vector's size; end_streaming() makes the stores visible before other threads are told.
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
  stream_bytes(to, narrowed, std::integral_constant<int, kCount* static_cast<int>(sizeof(T))>{});
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

// Asks for what a loop will read some way ahead. The hardware does so within a page of 4 kB only.
template <class T>
inline void prefetch(const T* from) {
  __builtin_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
}

// body(offset, Whole or Part) over `length` consecutive values.
template <class A, class Body>
inline void for_vectors(std::int64_t length, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes<A> <= length; i += kLanes<A>) body(i, Whole{});
  if (i < length) body(i, Part{static_cast<int>(length - i)});
}

// The same, for a loop that writes to `out` at the same offsets: with `stream` in stores past the
// caches.
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

}  // namespace syncnorm::cpu::SYNCNORM_ISA
