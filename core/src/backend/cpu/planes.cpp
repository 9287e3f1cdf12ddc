#include "backend/cpu/planes.hpp"

#include <algorithm>
#include <cstddef>

#include "backend/cpu/thread_pool.hpp"

namespace syncnorm::cpu {

PlanePasses::PlanePasses(const Problem& problem, const Kernels& kernels,
                         const PlaneScratch& scratch)
    : view_(plane_view(problem)),
      value_size_(value_size(problem)),
      activation_(activation_of(problem)),
      large_(problem.size() * value_size(problem) >= kStreamBytes &&
             view_.s * value_size(problem) >= kStreamRunBytes),
      kernels_(kernels),
      scratch_(scratch) {}

const void* PlanePasses::at(const void* data, std::int64_t values) const {
  return data == nullptr ? nullptr : static_cast<const std::byte*>(data) + values * value_size_;
}

void* PlanePasses::at(void* data, std::int64_t values) const {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + values * value_size_;
}

GradInputs PlanePasses::at(const GradInputs& in, std::int64_t values) const {
  return {at(in.x, values), at(in.dy, values), at(in.y, values)};
}

// visit(chunk, channels) in the order of memory, or in the opposite one: then a pass begins with
// what the pass before it has left in the caches.
template <class Visit>
void PlanePasses::for_chunks(int threads, bool backwards, Visit&& visit) const {
  const std::int64_t chunk_bytes =
      std::max<std::int64_t>(1, view_.planes_per_chunk * view_.piece_length * value_size_);
  const std::int64_t group = std::clamp<std::int64_t>(kPlaneTaskBytes / chunk_bytes, 1,
                                                      std::max<std::int64_t>(view_.c, 1));
  const std::int64_t groups = divide_up(view_.c, group);
  const std::int64_t tasks = groups * view_.chunks();
  // Pieces of a plane lie next to each other: then the channel is the slower index.
  const std::int64_t pieces = view_.pieces;
  parallel_for(threads, tasks, [&](std::int64_t index) {
    const std::int64_t task = backwards ? tasks - 1 - index : index;
    const std::int64_t piece = task % pieces;
    const std::int64_t first = task / pieces % groups * group;
    const std::int64_t k = task / (pieces * groups) * pieces + piece;
    visit(k, ChannelRange{first, std::min(first + group, view_.c)});
  });
}

void PlanePasses::chunk_moments(std::int64_t k, ChannelRange range, const void* x,
                                const std::uint8_t* mask) const {
  const auto chunk = view_.chunk(k);
  for (std::int64_t c = range.begin; c < range.end; ++c)
    scratch_.moments[c * view_.chunks() + k] = kernels_.plane_moments(
        at(x, view_.offset(chunk, c)), chunk.planes, view_.mask(mask, chunk));
}

void PlanePasses::chunk_normalize(std::int64_t k, ChannelRange range,
                                  const syncnorm_forward_args& args,
                                  const ForwardConstants* constants) const {
  const auto chunk = view_.chunk(k);
  for (std::int64_t c = range.begin; c < range.end; ++c) {
    const std::int64_t offset = view_.offset(chunk, c);
    kernels_.plane_normalize(at(args.x, offset), at(args.residual, offset), at(args.y, offset),
                             chunk.planes, constants[c], activation_, stores(args.x, args.y));
  }
}

void PlanePasses::chunk_grad_moments(std::int64_t k, ChannelRange range, const GradInputs& in,
                                     const ForwardConstants* constants) const {
  const auto chunk = view_.chunk(k);
  for (std::int64_t c = range.begin; c < range.end; ++c)
    scratch_.sums[c * view_.chunks() + k] = kernels_.plane_grad_moments(
        at(in, view_.offset(chunk, c)), chunk.planes, constants[c], activation_);
}

void PlanePasses::chunk_grad_input(std::int64_t k, ChannelRange range, const GradInputs& in,
                                   const GradOutputs& out, const std::uint8_t* mask,
                                   const ForwardConstants* forward,
                                   const BackwardConstants* backward, bool frozen) const {
  const auto chunk = view_.chunk(k);
  for (std::int64_t c = range.begin; c < range.end; ++c) {
    const std::int64_t offset = view_.offset(chunk, c);
    kernels_.plane_grad_input(at(in, offset), {at(out.dx, offset), at(out.dresidual, offset)},
                              chunk.planes, view_.mask(mask, chunk), forward[c], backward[c],
                              activation_, frozen, stores(in.dy, out.dx));
  }
}

void PlanePasses::merge(ChannelRange range, Moments* out) const {
  const std::int64_t chunks = view_.chunks();
  for (std::int64_t c = range.begin; c < range.end; ++c) {
    Moments all{};
    for (std::int64_t k = 0; k < chunks; ++k)
      all = syncnorm::merge(all, scratch_.moments[c * chunks + k]);
    out[c] = all;
  }
}

void PlanePasses::merge(ChannelRange range, GradSums* out) const {
  const std::int64_t chunks = view_.chunks();
  for (std::int64_t c = range.begin; c < range.end; ++c) {
    GradSums all{};
    for (std::int64_t k = 0; k < chunks; ++k) {
      all.bias += scratch_.sums[c * chunks + k].bias;
      all.weight += scratch_.sums[c * chunks + k].weight;
    }
    out[c] = all;
  }
}

void PlanePasses::moments(int threads, const void* x, const std::uint8_t* mask,
                          Moments* out) const {
  for_chunks(threads, false,
             [&](std::int64_t k, ChannelRange range) { chunk_moments(k, range, x, mask); });
  merge({0, view_.c}, out);
}

void PlanePasses::normalize(int threads, const syncnorm_forward_args& args,
                            const ForwardConstants* constants) const {
  for_chunks(threads, true, [&](std::int64_t k, ChannelRange range) {
    chunk_normalize(k, range, args, constants);
  });
}

void PlanePasses::grad_moments(int threads, const GradInputs& in, const ForwardConstants* constants,
                               GradSums* out) const {
  for_chunks(threads, false, [&](std::int64_t k, ChannelRange range) {
    chunk_grad_moments(k, range, in, constants);
  });
  merge({0, view_.c}, out);
}

void PlanePasses::grad_input(int threads, const GradInputs& in, const GradOutputs& out,
                             const std::uint8_t* mask, const ForwardConstants* forward,
                             const BackwardConstants* backward, bool frozen) const {
  for_chunks(threads, true, [&](std::int64_t k, ChannelRange range) {
    chunk_grad_input(k, range, in, out, mask, forward, backward, frozen);
  });
}

void PlanePasses::moments(ChannelRange range, const void* x, const std::uint8_t* mask,
                          Moments* out) const {
  for (std::int64_t k = 0; k < view_.chunks(); ++k) chunk_moments(k, range, x, mask);
  merge(range, out);
}

void PlanePasses::normalize(ChannelRange range, const syncnorm_forward_args& args,
                            const ForwardConstants* constants) const {
  for (std::int64_t k = view_.chunks(); k-- > 0;) chunk_normalize(k, range, args, constants);
}

void PlanePasses::grad_moments(ChannelRange range, const GradInputs& in,
                               const ForwardConstants* constants, GradSums* out) const {
  for (std::int64_t k = 0; k < view_.chunks(); ++k) chunk_grad_moments(k, range, in, constants);
  merge(range, out);
}

void PlanePasses::grad_input(ChannelRange range, const GradInputs& in, const GradOutputs& out,
                             const std::uint8_t* mask, const ForwardConstants* forward,
                             const BackwardConstants* backward, bool frozen) const {
  for (std::int64_t k = view_.chunks(); k-- > 0;)
    chunk_grad_input(k, range, in, out, mask, forward, backward, frozen);
}

PlanePasses::Blocks PlanePasses::blocks(int threads, std::int64_t tensors) const {
  const std::int64_t channel_bytes = tensors * view_.n * view_.s * value_size_;
  if (view_.c == 0 || channel_bytes == 0 || channel_bytes > kCacheBytes) return {};
  const std::int64_t run_bytes = view_.s * value_size_;
  const std::int64_t wanted = std::min(divide_up(kBlockRunBytes, run_bytes), view_.c);
  const std::int64_t fitting = std::max<std::int64_t>(kBlockBytes / channel_bytes, 1);
  const std::int64_t channels = std::min(wanted, fitting);
  const std::int64_t count = divide_up(view_.c, channels);
  if (count < threads) return {};
  return {count, channels, view_.c};
}

}  // namespace syncnorm::cpu
