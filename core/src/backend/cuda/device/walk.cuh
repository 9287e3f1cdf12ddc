// How a thread visits its values, piece by piece, with all index arithmetic outside the loop.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/plans.hpp"

namespace syncnorm::cuda {

enum class Direction : int { kForward = 1, kBackward = -1 };

// One column of packs: rows first, first + step, ... below end.
template <int V, Direction kDirection>
class RowWalker {
 public:
  __device__ RowWalker(const RowView& view, std::int64_t column, std::int64_t first,
                       std::int64_t end, std::int64_t step)
      : size_(view.size), left_(first < end ? (end - first + step - 1) / step : 0) {
    const std::int64_t row = kDirection == Direction::kForward ? first : first + (left_ - 1) * step;
    const std::int64_t stride = step * static_cast<int>(kDirection);
    offset_ = row * view.width + column;
    offset_step_ = stride * view.width;
    position_ = row * view.positions;
    position_step_ = stride * view.positions;
  }

  __device__ std::int64_t left() const { return left_; }

  __device__ __forceinline__ Piece next() {
    const std::int64_t rest = size_ - offset_;
    const int end = rest >= V ? V : rest > 0 ? static_cast<int>(rest) : 0;
    const Piece piece{offset_, 0, end, position_};
    offset_ += offset_step_;
    position_ += position_step_;
    --left_;
    return piece;
  }

 private:
  std::int64_t size_, left_, offset_, offset_step_, position_, position_step_;
};

// Slots first, first + step, ... below end of one channel, counted through its planes.
template <int V, Direction kDirection>
class PlaneWalker {
 public:
  __device__ PlaneWalker(const PlaneView& view, std::int64_t channel, std::int64_t first,
                         std::int64_t end, std::int64_t step)
      : left_(first < end ? (end - first + step - 1) / step : 0),
        slots_(view.slots),
        s_(view.s),
        plane_step_(step / view.slots),
        slot_step_(step % view.slots),
        sample_(view.c * view.s) {
    const std::int64_t at =
        kDirection == Direction::kForward || left_ == 0 ? first : first + (left_ - 1) * step;
    plane_ = at / slots_;
    slot_ = at % slots_;
    start_ = (plane_ * view.c + channel) * s_;
  }

  __device__ std::int64_t left() const { return left_; }

  __device__ __forceinline__ Piece next() {
    const std::int64_t lead = start_ & (V - 1);  // of the plane's first pack, outside the plane
    const std::int64_t from = slot_ * V - lead;
    const std::int64_t rest = s_ - from;
    const Piece piece{start_ + from, from < 0 ? static_cast<int>(-from) : 0,
                      rest >= V  ? V
                      : rest > 0 ? static_cast<int>(rest)
                                 : 0,
                      plane_ * s_ + from};
    advance();
    --left_;
    return piece;
  }

 private:
  __device__ __forceinline__ void advance() {
    constexpr int kSign = static_cast<int>(kDirection);
    slot_ += kSign * slot_step_;
    std::int64_t planes = kSign * plane_step_;
    if (kSign > 0 && slot_ >= slots_) slot_ -= slots_, ++planes;
    if (kSign < 0 && slot_ < 0) slot_ += slots_, --planes;
    plane_ += planes;
    start_ += planes * sample_;
  }

  std::int64_t left_, slots_, s_, plane_step_, slot_step_, sample_;
  std::int64_t plane_, slot_, start_;
};

// What a thread knows of its values: a constant of their channel, and their positions in a mask,
// counted from the piece's.
template <class Constant, int V>
struct RowLane {
  Constant constants[V];
  int column, span, channels;  // from the tile's first column
  bool joined;                 // channels last, several positions in a row

  __device__ __forceinline__ const Constant& constant(int e) const { return constants[e]; }
  __device__ __forceinline__ int position(int e) const {
    if (span > 1) return (column + e) % span;
    return joined ? (column + e) / channels : 0;
  }
};

template <class Constant>
struct PlaneLane {
  Constant value;
  __device__ __forceinline__ const Constant& constant(int) const { return value; }
  __device__ __forceinline__ int position(int e) const { return e; }
};

// use(inputs, piece, whole) on the next `count` pieces, kUnroll loads at a time. `whole` is a
// std::true_type where the piece is known to be whole.
template <int kUnroll, int V, class Source, class Walker, class Use>
__device__ __forceinline__ void for_each_piece(const Source& source, Walker& walker,
                                               std::int64_t count, Use&& use) {
  for (; count >= kUnroll; count -= kUnroll) {
    Piece pieces[kUnroll];
    typename Source::Inputs inputs[kUnroll];
    bool whole = true;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      pieces[u] = walker.next();
      whole = whole && is_whole<V>(pieces[u]);
    }
    if (whole) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) source.load(inputs[u], pieces[u]);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) use(inputs[u], pieces[u], std::true_type{});
    } else {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        source.load_part(inputs[u], pieces[u]);
        use(inputs[u], pieces[u], std::false_type{});
      }
    }
  }
  for (; count > 0; --count) {
    const Piece piece = walker.next();
    typename Source::Inputs inputs;
    if (is_whole<V>(piece)) {
      source.load(inputs, piece);
      use(inputs, piece, std::true_type{});
    } else {
      source.load_part(inputs, piece);
      use(inputs, piece, std::false_type{});
    }
  }
}

}  // namespace syncnorm::cuda
