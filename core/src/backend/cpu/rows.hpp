// Channels-last tensors: the passes over rows of all channels.
#pragma once

#include <cstdint>

#include "backend/cpu/channels.hpp"
#include "backend/cpu/geometry.hpp"
#include "backend/cpu/kernels.hpp"
#include "backend/cpu/scratch.hpp"

namespace syncnorm::cpu {

class RowPasses {
 public:
  RowPasses(const Problem& problem, const Kernels& kernels, Carver& carver, bool masked);

  void moments(int threads, const void* x, const std::uint8_t* mask, double count,
               Moments* out) const;
  void normalize(int threads, const syncnorm_forward_args&, const ForwardConstants*) const;
  void grad_moments(int threads, const GradInputs&, const ForwardConstants*, GradSums* out) const;
  void grad_input(int threads, const GradInputs&, const GradOutputs&, const std::uint8_t* mask,
                  const ForwardConstants*, const BackwardConstants*, bool frozen) const;

 private:
  // Past the caches for a large tensor, unless it overwrites what was just read.
  Stores stores(const void* input, const void* output) const {
    return large_ && input != output ? Stores::kStreamed : Stores::kCached;
  }

  template <class Visit>
  void for_rows(int threads, bool backwards, Visit&& visit) const;
  // Sums over tasks, and over the rows that stand side by side, in a fixed order.
  void fold_tasks() const;
  double folded(const double* sums, std::int64_t channel) const;

  void spread(double* array, std::int64_t channel, double value) const;
  void spread_shift() const;
  RowConstants constants(const ForwardConstants*, const BackwardConstants*) const;

  const void* at(const void* data, std::int64_t row) const;
  void* at(void* data, std::int64_t row) const;
  GradInputs at(const GradInputs&, std::int64_t row) const;

  RowView view_;
  std::int64_t value_size_;
  bool float64_;
  Activation activation_;
  bool large_;
  const Kernels& kernels_;
  RowScratch scratch_;
};

}  // namespace syncnorm::cpu
