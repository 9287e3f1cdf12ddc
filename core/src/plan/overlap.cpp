#include "plan/overlap.hpp"

#include <cstddef>
#include <cstdint>

#include "math/wire.hpp"
#include "plan/support_table.hpp"
#include "support/error.hpp"

namespace syncnorm {
namespace {

struct Buffer {
  const char* name;
  std::uintptr_t begin;
  std::uintptr_t end;
};

// A buffer that is absent or without values overlaps none.
Buffer buffer(const char* name, const void* data, std::int64_t values, std::size_t value_size) {
  if (data == nullptr || values == 0) return {name, UINTPTR_MAX, 0};
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {name, begin, begin + static_cast<std::size_t>(values) * value_size};
}

Buffer vector_buffer(const Problem& problem, const char* name, const syncnorm_vector& vector) {
  if (vector.data == nullptr) return buffer(name, nullptr, 0, 0);
  return buffer(name, vector.data, problem.c, support_of(vector.dtype).size);
}

Buffer tensor_buffer(const Problem& problem, const char* name, const void* data) {
  return buffer(name, data, problem.size(), support_of(problem.dtype).size);
}

Buffer mask_buffer(const Problem& problem, const std::uint8_t* mask) {
  return buffer("mask", mask, problem.values_per_channel(), 1);
}

Buffer saved_buffer(const Problem& problem, const double* saved) {
  return buffer("saved", saved, Saved::length(problem.c), sizeof(double));
}

Buffer counter_buffer(const std::int64_t* counter) {
  return buffer("num_batches_tracked", counter, 1, sizeof(std::int64_t));
}

// Without branches: every call checks tens of pairs.
bool overlap(const Buffer& a, const Buffer& b) {
  return static_cast<int>(a.begin < b.end) & static_cast<int>(b.begin < a.end);
}

bool same(const Buffer& a, const Buffer& b) { return a.begin == b.begin && a.end == b.end; }

// The first kOutputs buffers are written. may_be_same(i, j): output i may be buffer j.
template <std::size_t kOutputs, std::size_t kCount, class MayBeSame>
void check_overlap(const Buffer (&buffers)[kCount], MayBeSame&& may_be_same) {
  for (std::size_t i = 0; i < kOutputs; ++i)
    for (std::size_t j = i + 1; j < kCount; ++j) {
      if (!overlap(buffers[i], buffers[j])) continue;
      if (may_be_same(i, j) && same(buffers[i], buffers[j])) continue;
      fail(SYNCNORM_INVALID_ARGUMENT, buffers[i].name, " overlaps ", buffers[j].name,
           " in memory; expected an output that is apart from every other buffer of the call: give "
           "it its own memory");
    }
}

// y may be x where x is not needed again.
bool may_overwrite_x(const Problem& problem, const syncnorm_forward_args& args) {
  return problem.in_place() || args.saved == nullptr;
}

}  // namespace

void check_overlap_normalize(const Problem& problem, const syncnorm_forward_args& args) {
  const Buffer buffers[] = {tensor_buffer(problem, "y", args.y),
                            saved_buffer(problem, args.saved),
                            vector_buffer(problem, "running_mean", args.running_mean),
                            vector_buffer(problem, "running_var", args.running_var),
                            counter_buffer(args.num_batches_tracked),
                            tensor_buffer(problem, "x", args.x),
                            tensor_buffer(problem, "residual", args.residual),
                            vector_buffer(problem, "weight", args.weight),
                            vector_buffer(problem, "bias", args.bias),
                            mask_buffer(problem, args.mask)};
  const bool over_x = may_overwrite_x(problem, args);
  check_overlap<5>(buffers, [over_x](std::size_t output, std::size_t other) {
    return output == 0 && (other == 6 || (over_x && other == 5));
  });
}

void check_overlap_running(const Problem& problem, const syncnorm_forward_args& args) {
  const Buffer buffers[] = {vector_buffer(problem, "running_mean", args.running_mean),
                            vector_buffer(problem, "running_var", args.running_var),
                            counter_buffer(args.num_batches_tracked)};
  check_overlap<3>(buffers, [](std::size_t, std::size_t) { return false; });
}

void check_overlap_infer(const Problem& problem, const syncnorm_forward_args& args) {
  const Buffer buffers[] = {tensor_buffer(problem, "y", args.y),
                            saved_buffer(problem, args.saved),
                            tensor_buffer(problem, "x", args.x),
                            tensor_buffer(problem, "residual", args.residual),
                            vector_buffer(problem, "weight", args.weight),
                            vector_buffer(problem, "bias", args.bias),
                            vector_buffer(problem, "running_mean", args.running_mean),
                            vector_buffer(problem, "running_var", args.running_var)};
  const bool over_x = may_overwrite_x(problem, args);
  check_overlap<2>(buffers, [over_x](std::size_t output, std::size_t other) {
    return output == 0 && (other == 3 || (over_x && other == 2));
  });
}

void check_overlap_backward(const Problem& problem, const syncnorm_backward_args& args) {
  const Buffer buffers[] = {tensor_buffer(problem, "dx", args.dx),
                            tensor_buffer(problem, "dresidual", args.dresidual),
                            vector_buffer(problem, "dweight", args.dweight),
                            vector_buffer(problem, "dbias", args.dbias),
                            tensor_buffer(problem, "dy", args.dy),
                            tensor_buffer(problem, "x", args.x),
                            tensor_buffer(problem, "y", args.y),
                            saved_buffer(problem, args.saved),
                            vector_buffer(problem, "weight", args.weight),
                            vector_buffer(problem, "bias", args.bias),
                            mask_buffer(problem, args.mask)};
  check_overlap<4>(buffers,
                   [](std::size_t output, std::size_t other) { return output < 2 && other == 4; });
}

}  // namespace syncnorm
