// Channels-first tensors: the passes over chunks of one channel.
#pragma once

#include <cstdint>

#include "backend/cpu/channels.hpp"
#include "backend/cpu/geometry.hpp"
#include "backend/cpu/kernels.hpp"
#include "backend/cpu/scratch.hpp"

namespace syncnorm::cpu {

class PlanePasses {
 public:
  PlanePasses(const Problem& problem, const Kernels& kernels, const PlaneScratch& scratch);

  // Passes over the whole tensor.
  void moments(int threads, const void* x, const std::uint8_t* mask, Moments* out) const;
  void normalize(int threads, const syncnorm_forward_args&, const ForwardConstants*) const;
  void grad_moments(int threads, const GradInputs&, const ForwardConstants*, GradSums* out) const;
  void grad_input(int threads, const GradInputs&, const GradOutputs&, const std::uint8_t* mask,
                  const ForwardConstants*, const BackwardConstants*, bool frozen) const;

  // The same passes over some channels, on the calling thread.
  void moments(ChannelRange, const void* x, const std::uint8_t* mask, Moments* out) const;
  void normalize(ChannelRange, const syncnorm_forward_args&, const ForwardConstants*) const;
  void grad_moments(ChannelRange, const GradInputs&, const ForwardConstants*, GradSums* out) const;
  void grad_input(ChannelRange, const GradInputs&, const GradOutputs&, const std::uint8_t* mask,
                  const ForwardConstants*, const BackwardConstants*, bool frozen) const;

  // Divides the channels into blocks whose `tensors` tensors stay in a core's cache between two
  // passes. A block count of 0: there is no such division, or none that keeps `threads` threads
  // busy.
  struct Blocks {
    std::int64_t count;
    std::int64_t channels;
    std::int64_t all;
    ChannelRange operator[](std::int64_t i) const {
      return {i * channels, std::min((i + 1) * channels, all)};
    }
  };
  Blocks blocks(int threads, std::int64_t tensors) const;

 private:
  // Past the caches for a large tensor, unless it overwrites what was just read.
  Stores stores(const void* input, const void* output) const {
    return large_ && input != output ? Stores::kStreamed : Stores::kCached;
  }

  template <class Visit>
  void for_chunks(int threads, bool backwards, Visit&& visit) const;

  void chunk_moments(std::int64_t k, ChannelRange, const void* x, const std::uint8_t* mask) const;
  void chunk_normalize(std::int64_t k, ChannelRange, const syncnorm_forward_args&,
                       const ForwardConstants*) const;
  void chunk_grad_moments(std::int64_t k, ChannelRange, const GradInputs&,
                          const ForwardConstants*) const;
  void chunk_grad_input(std::int64_t k, ChannelRange, const GradInputs&, const GradOutputs&,
                        const std::uint8_t* mask, const ForwardConstants*, const BackwardConstants*,
                        bool frozen) const;
  void merge(ChannelRange, Moments* out) const;
  void merge(ChannelRange, GradSums* out) const;

  const void* at(const void* data, std::int64_t values) const;
  void* at(void* data, std::int64_t values) const;
  GradInputs at(const GradInputs&, std::int64_t values) const;

  PlaneView view_;
  std::int64_t value_size_;
  Activation activation_;
  bool large_;
  const Kernels& kernels_;
  PlaneScratch scratch_;
};

}  // namespace syncnorm::cpu
