// How the CPU backend divides its scratch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/geometry.hpp"
#include "backend/cpu/kernels.hpp"
#include "plan/problem.hpp"

namespace syncnorm::cpu {

// Takes consecutive arrays from a block of memory; with no memory it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 64;
    T* taken = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return taken;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

// One value per channel each.
struct ChannelScratch {
  Moments* moments;
  GradSums* sums;
  ForwardConstants* forward;
  BackwardConstants* backward;

  ChannelScratch(Carver& carver, std::int64_t c)
      : moments(carver.take<Moments>(c)),
        sums(carver.take<GradSums>(c)),
        forward(carver.take<ForwardConstants>(c)),
        backward(carver.take<BackwardConstants>(c)) {}
};

// One result per channel and chunk. The two passes use the same memory.
struct PlaneScratch {
  Moments* moments;
  GradSums* sums;

  PlaneScratch(Carver& carver, const PlaneView& view)
      : moments(carver.take<Moments>(view.c * view.chunks())),
        sums(reinterpret_cast<GradSums*>(moments)) {
    static_assert(sizeof(GradSums) <= sizeof(Moments));
  }
};

// Arrays of a row's width; arithmetic values are given the room of a double.
struct RowScratch {
  double* first;   // [tasks][width] float64 sums
  double* second;  // [tasks][width]
  double* lanes;   // [tasks][2][width] arithmetic values: the kernels' accumulators
  double* shift;   // [width] arithmetic values
  double* constants[7];

  RowScratch(Carver& carver, const RowView& view)
      : first(carver.take<double>(view.tasks * view.width)),
        second(carver.take<double>(view.tasks * view.width)),
        lanes(carver.take<double>(view.tasks * 2 * view.width)),
        shift(carver.take<double>(view.width)) {
    for (double*& array : constants) array = carver.take<double>(view.width);
  }
};

// Enough for a call with or without a mask, which divides rows differently.
inline std::size_t scratch_size(const Problem& problem) {
  Carver carver(nullptr);
  ChannelScratch channels(carver, problem.c);
  Carver masked = carver;
  if (is_rows(problem)) {
    RowScratch(carver, row_view(problem, false));
    RowScratch(masked, row_view(problem, true));
  } else {
    PlaneScratch(carver, plane_view(problem));
  }
  return std::max(carver.used(), masked.used());
}

}  // namespace syncnorm::cpu
