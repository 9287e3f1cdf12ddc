// Values as they stand in memory, and several of them as one access of 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cuda/device/in_flight.cuh"
#include "backend/cuda/device/plans.hpp"

namespace syncnorm::cuda {

// The type that sums and products of T are formed in.
template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Significant bits of T.
template <class T>
constexpr int kDigits = 24;
template <>
constexpr int kDigits<double> = 53;
template <>
constexpr int kDigits<__half> = 11;
template <>
constexpr int kDigits<__nv_bfloat16> = 8;

__device__ __forceinline__ double to_arithmetic(double value) { return value; }
__device__ __forceinline__ float to_arithmetic(float value) { return value; }
__device__ __forceinline__ float to_arithmetic(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_arithmetic(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_arithmetic(Arithmetic<T> value) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(value);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else
    return value;
}

// Where some of V consecutive values stand: those at offset + begin ... offset + end - 1. The
// offset is a multiple of V and may lie up to V - 1 values before the first.
struct Piece {
  std::int64_t offset;
  int begin;
  int end;
  std::int64_t position;  // of the value at `offset`, among the positions of a mask
};

// V values as loaded: as many as 16 bytes hold, or one where the data are not aligned for that.
// They are converted when they are used, so that several loads are under way at a time.
template <class T, int V>
class Pack {
  static constexpr bool kWide = V * sizeof(T) == kPackBytes;
  static_assert(kWide || V == 1);
  using Bits = std::conditional_t<kWide, uint4, T>;

 public:
  __device__ __forceinline__ void load(const T* p) { bits_.load(reinterpret_cast<const Bits*>(p)); }
  // Only the values of the piece; the others are zero.
  __device__ __forceinline__ void load_part(const T* p, const Piece& piece) {
    T raw[V];
#pragma unroll
    for (int e = 0; e < V; ++e)
      raw[e] = e >= piece.begin && e < piece.end ? p[e] : from_arithmetic<T>(0);
    Bits bits;
    memcpy(&bits, raw, sizeof(bits));
    bits_.set(bits);
  }
  __device__ __forceinline__ void unpack(Arithmetic<T> (&values)[V]) const {
    const Bits bits = bits_.get();
    T raw[V];
    memcpy(static_cast<void*>(raw), &bits, sizeof(bits));
#pragma unroll
    for (int e = 0; e < V; ++e) values[e] = to_arithmetic(raw[e]);
  }

 private:
  InFlight<Bits> bits_;
};

template <int V>
__device__ __forceinline__ bool is_whole(const Piece& piece) {
  return V == 1 || (piece.begin == 0 && piece.end == V);
}

// How the V values of a pack stand to the positions of a mask.
enum class PositionOrder {
  kSame,         // all at one: channels last
  kConsecutive,  // one after the other: planes
  kAny
};

// Which of V values count, by the bytes of a mask: one load where they are one byte, or one word.
template <int V>
class MaskBytes {
  using Word = std::conditional_t<
      V == 8, std::uint64_t,
      std::conditional_t<V == 4, std::uint32_t,
                         std::conditional_t<V == 2, std::uint16_t, std::uint8_t>>>;
  static_assert(sizeof(Word) == V);

 public:
  template <class Positions>
  __device__ __forceinline__ void load(const std::uint8_t* mask, const Piece& piece,
                                       const Positions& positions) {
    same_ = positions.order() == PositionOrder::kSame;
    const std::uint8_t* const first = mask + piece.position;
    if (same_) {
      bytes_.set(first[0]);
    } else if (positions.order() == PositionOrder::kConsecutive && is_whole<V>(piece) &&
               reinterpret_cast<std::uintptr_t>(first) % V == 0) {
      bytes_.load(reinterpret_cast<const Word*>(first));
    } else {
      Word bytes = 0;
#pragma unroll
      for (int e = 0; e < V; ++e)
        if (e >= piece.begin && e < piece.end)
          bytes = static_cast<Word>(bytes | static_cast<Word>(first[positions[e]]) << 8 * e);
      bytes_.set(bytes);
    }
  }
  __device__ __forceinline__ bool operator[](int e) const {
    return (bytes_.get() >> (same_ ? 0 : 8 * e) & 0xff) != 0;
  }

 private:
  InFlight<Word> bytes_;
  bool same_;
};

struct NoMask {};
// What a kernel keeps of a mask for each pack.
template <int V, bool kMasked>
using MaskOfPack = std::conditional_t<kMasked, MaskBytes<V>, NoMask>;

template <class T, int V>
__device__ __forceinline__ void store(T* p, const Piece& piece, const Arithmetic<T> (&values)[V]) {
  T raw[V];
#pragma unroll
  for (int e = 0; e < V; ++e) raw[e] = from_arithmetic<T>(values[e]);
  if (V * sizeof(T) == kPackBytes && is_whole<V>(piece)) {
    uint4 bits;
    memcpy(&bits, static_cast<const void*>(raw), V * sizeof(T));
    // Not a plain assignment: compilers join that with the stores below, into narrow ones.
    __stcg(reinterpret_cast<uint4*>(p), bits);
    return;
  }
#pragma unroll
  for (int e = 0; e < V; ++e)
    if (e >= piece.begin && e < piece.end) p[e] = raw[e];
}

}  // namespace syncnorm::cuda
