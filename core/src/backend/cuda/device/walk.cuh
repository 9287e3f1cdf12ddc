// How a thread visits its values, piece by piece, with all index arithmetic outside the loop, and
// with its loads under way before they are needed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "backend/cuda/device/pack.cuh"
#include "backend/cuda/device/plans.hpp"

namespace syncnorm::cuda {

enum class Direction : int { kForward = 1, kBackward = -1 };

// How many of first, first + step, ... are below end.
__device__ __forceinline__ int steps_between(int first, int end, int step) {
  return first < end ? (end - first + step - 1) / step : 0;
}

// One column of packs: rows first, first + step, ... below end.
template <int V_, Direction kDirection>
class RowWalker {
 public:
  static constexpr int V = V_;

  __device__ RowWalker(const RowView& view, std::int64_t column, int first, int end, int step)
      : left_(steps_between(first, end, step)), size_(view.size) {
    const int row =
        kDirection == Direction::kForward || left_ == 0 ? first : first + (left_ - 1) * step;
    const int stride = step * static_cast<int>(kDirection);
    offset_ = row * view.width + column;
    offset_step_ = stride * view.width;
    position_ = row * view.positions;
    position_step_ = stride * view.positions;
    const std::int64_t last = first + static_cast<std::int64_t>(left_ - 1) * step;
    whole_ = V == 1 || left_ == 0 || last * view.width + column + V <= size_;
  }

  __device__ __forceinline__ int left() const { return left_; }
  // Whether every piece is.
  __device__ __forceinline__ bool whole() const { return whole_; }

  template <bool kWhole>
  __device__ __forceinline__ Piece next() {
    const std::int64_t rest = size_ - offset_;
    const int end = kWhole || rest >= V ? V : rest > 0 ? static_cast<int>(rest) : 0;
    const Piece piece{offset_, 0, end, position_};
    offset_ += offset_step_;
    position_ += position_step_;
    --left_;
    return piece;
  }

 private:
  int left_;
  bool whole_;
  std::int64_t size_, offset_, offset_step_, position_, position_step_;
};

// Slots first, first + step, ... below end of one channel, counted through its planes.
template <int V_, Direction kDirection>
class PlaneWalker {
 public:
  static constexpr int V = V_;

  __device__ PlaneWalker(const PlaneView& view, std::int64_t channel, int first, int end, int step)
      : left_(steps_between(first, end, step)),
        slots_(view.slots),
        slot_step_(step % view.slots),
        whole_packs_(static_cast<int>(view.s / V)),
        s_(view.s),
        sample_(view.c * view.s),
        sample_step_(step / view.slots * sample_),
        position_step_(step / view.slots * s_) {
    const int at =
        kDirection == Direction::kForward || left_ == 0 ? first : first + (left_ - 1) * step;
    const int plane = at / slots_;
    slot_ = at % slots_;
    start_ = (plane * view.c + channel) * s_;
    position_ = plane * s_;
  }

  __device__ __forceinline__ int left() const { return left_; }
  __device__ __forceinline__ bool whole() const { return V == 1 || s_ % V == 0; }

  template <bool kWhole>
  __device__ __forceinline__ Piece next() {
    // Of the plane's first pack what is outside, and of the last one what is inside.
    const int lead = kWhole ? 0 : static_cast<int>(start_) & (V - 1);
    const int rest = kWhole ? 0 : static_cast<int>(s_) & (V - 1);
    const int last = whole_packs_ + (lead + rest) / V;
    const std::int64_t from = static_cast<std::int64_t>(slot_) * V - lead;
    const Piece piece{start_ + from, kWhole || slot_ > 0 ? 0 : lead,
                      kWhole || slot_ < last ? V
                      : slot_ == last        ? (lead + rest) % V
                                             : 0,
                      position_ + from};
    advance();
    --left_;
    return piece;
  }

 private:
  __device__ __forceinline__ void advance() {
    constexpr int kSign = static_cast<int>(kDirection);
    slot_ += kSign * slot_step_;
    start_ += kSign * sample_step_;
    position_ += kSign * position_step_;
    const bool carries = kSign > 0 ? slot_ >= slots_ : slot_ < 0;
    if (!carries) return;
    slot_ -= kSign * slots_;
    start_ += kSign * sample_;
    position_ += kSign * s_;
  }

  int left_, slots_, slot_, slot_step_;
  int whole_packs_;  // that S values are
  std::int64_t s_, sample_, sample_step_, position_step_;
  std::int64_t start_, position_;  // of the plane
};

// The pieces of a walk, kDepth of them on their way at any time. A ring: where a piece has been
// used, the load of the one kDepth further on is issued.
template <int kDepth, class Source, class Walker, class Positions>
class Pipeline {
 public:
  __device__ __forceinline__ Pipeline(const Source& source, const Walker& walker,
                                      const Positions& positions)
      : source_(source), positions_(positions), loaded_(walker), used_(walker) {
#pragma unroll
    for (int slot = 0; slot < kDepth; ++slot) {
      if (used_.whole())
        fetch<true>(slot);
      else
        fetch<false>(slot);
    }
  }

  __device__ __forceinline__ int left() const { return used_.left(); }

  // use(inputs, piece, whole) on the next `count` pieces: a multiple of kDepth, or all that are
  // left. `whole` is a std::true_type where the pieces are known to be whole.
  template <class Use>
  __device__ __forceinline__ void run(int count, Use&& use) {
    if (used_.whole())
      run<true>(count, use);
    else
      run<false>(count, use);
  }

 private:
  template <bool kWhole, class Use>
  __device__ __forceinline__ void run(int count, Use&& use) {
    for (; kWhole && count >= kDepth; count -= kDepth) {
#pragma unroll
      for (int slot = 0; slot < kDepth; ++slot) step<kWhole>(slot, use);
    }
    for (; count > 0; count -= kDepth) {
#pragma unroll
      for (int slot = 0; slot < kDepth; ++slot)
        if (slot < count) step<kWhole>(slot, use);
    }
  }

  template <bool kWhole, class Use>
  __device__ __forceinline__ void step(int slot, Use&& use) {
    use(inputs_[slot], used_.template next<kWhole>(), std::bool_constant<kWhole>{});
    fetch<kWhole>(slot);
  }

  template <bool kWhole>
  __device__ __forceinline__ void fetch(int slot) {
    const bool more = loaded_.left() > 0;
    const Piece piece = loaded_.template next<kWhole>();
    if (!more) return;
    if (kWhole || is_whole<V>(piece))
      source_.load(inputs_[slot], piece, positions_);
    else
      source_.load_part(inputs_[slot], piece, positions_);
  }

  static constexpr int V = Walker::V;

  const Source& source_;
  const Positions& positions_;
  Walker loaded_, used_;
  typename Source::Inputs inputs_[kDepth];
};

template <int kDepth, class Source, class Walker, class Positions>
__device__ __forceinline__ Pipeline<kDepth, Source, Walker, Positions> pipeline(
    const Source& source, const Walker& walker, const Positions& positions) {
  return {source, walker, positions};
}

}  // namespace syncnorm::cuda
