#include "backend/cpu/rows.hpp"

#include <algorithm>
#include <cstddef>

#include "backend/cpu/thread_pool.hpp"

namespace syncnorm::cpu {

RowPasses::RowPasses(const Problem& problem, const Kernels& kernels, Carver& carver, bool masked)
    : view_(row_view(problem, masked)),
      value_size_(value_size(problem)),
      float64_(is_float64_arithmetic(problem)),
      activation_(activation_of(problem)),
      large_(problem.size() * value_size(problem) >= kStreamBytes),
      kernels_(kernels),
      scratch_(carver, view_) {}

const void* RowPasses::at(const void* data, std::int64_t row) const {
  return data == nullptr ? nullptr
                         : static_cast<const std::byte*>(data) + row * view_.c * value_size_;
}

void* RowPasses::at(void* data, std::int64_t row) const {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + row * view_.c * value_size_;
}

GradInputs RowPasses::at(const GradInputs& in, std::int64_t row) const {
  return {at(in.x, row), at(in.dy, row), at(in.y, row)};
}

// visit(task, first row, rows, width) in the order of memory or the opposite one; a task's last
// rows may be fewer than are joined, and are then one narrower row.
template <class Visit>
void RowPasses::for_rows(int threads, bool backwards, Visit&& visit) const {
  parallel_for(threads, view_.tasks, [&](std::int64_t index) {
    const std::int64_t t = backwards ? view_.tasks - 1 - index : index;
    const auto task = view_.task(t);
    visit(t, task.first_row, task.wide_rows, view_.width);
    if (task.rest > 0)
      visit(t, task.first_row + task.wide_rows * view_.joined, std::int64_t{1}, task.rest);
  });
}

void RowPasses::fold_tasks() const {
  for (std::int64_t t = 1; t < view_.tasks; ++t)
    for (std::int64_t i = 0; i < view_.width; ++i) {
      scratch_.first[i] += scratch_.first[t * view_.width + i];
      scratch_.second[i] += scratch_.second[t * view_.width + i];
    }
}

double RowPasses::folded(const double* sums, std::int64_t channel) const {
  double sum = 0;
  for (std::int64_t j = 0; j < view_.joined; ++j) sum += sums[j * view_.c + channel];
  return sum;
}

// Writes an arithmetic value to every place of the channel in a row.
void RowPasses::spread(double* array, std::int64_t channel, double value) const {
  for (std::int64_t j = 0; j < view_.joined; ++j) {
    const std::int64_t i = j * view_.c + channel;
    if (float64_)
      array[i] = value;
    else
      reinterpret_cast<float*>(array)[i] = static_cast<float>(value);
  }
}

// Repeats the first row's shifts over the joined rows.
void RowPasses::spread_shift() const {
  const std::int64_t size = float64_ ? sizeof(double) : sizeof(float);
  auto* bytes = reinterpret_cast<std::byte*>(scratch_.shift);
  for (std::int64_t j = 1; j < view_.joined; ++j)
    std::copy_n(bytes, view_.c * size, bytes + j * view_.c * size);
}

void RowPasses::moments(int threads, const void* x, const std::uint8_t* mask, double count,
                        Moments* out) const {
  kernels_.row_shift(x, view_.rows, view_.c, mask, scratch_.shift, scratch_.lanes);
  spread_shift();
  std::fill_n(scratch_.first, view_.tasks * view_.width, 0.0);
  std::fill_n(scratch_.second, view_.tasks * view_.width, 0.0);
  for_rows(threads, false,
           [&](std::int64_t t, std::int64_t row, std::int64_t rows, std::int64_t width) {
             kernels_.row_moments(at(x, row), rows, width, mask == nullptr ? nullptr : mask + row,
                                  scratch_.shift, scratch_.first + t * view_.width,
                                  scratch_.second + t * view_.width,
                                  scratch_.lanes + t * 2 * view_.width);
           });
  fold_tasks();
  for (std::int64_t c = 0; c < view_.c; ++c) {
    const double shift =
        float64_ ? scratch_.shift[c]
                 : static_cast<double>(reinterpret_cast<const float*>(scratch_.shift)[c]);
    out[c] =
        moments_from_shifted(count, shift, folded(scratch_.first, c), folded(scratch_.second, c));
  }
}

RowConstants RowPasses::constants(const ForwardConstants* forward,
                                  const BackwardConstants* backward) const {
  double* const* to = scratch_.constants;
  for (std::int64_t c = 0; c < view_.c; ++c) {
    spread(to[0], c, forward[c].hi);
    spread(to[1], c, forward[c].lo);
    spread(to[2], c, forward[c].scale);
    spread(to[3], c, forward[c].bias);
    if (backward == nullptr) continue;
    spread(to[4], c, backward[c].scale);
    spread(to[5], c, backward[c].offset);
    spread(to[6], c, backward[c].slope);
  }
  return {to[0], to[1], to[2], to[3], to[4], to[5], to[6]};
}

void RowPasses::normalize(int threads, const syncnorm_forward_args& args,
                          const ForwardConstants* forward) const {
  const RowConstants c = constants(forward, nullptr);
  for_rows(threads, true,
           [&](std::int64_t, std::int64_t row, std::int64_t rows, std::int64_t width) {
             kernels_.row_normalize(at(args.x, row), at(args.residual, row), at(args.y, row), rows,
                                    width, c, activation_, stores(args.x, args.y));
           });
}

void RowPasses::grad_moments(int threads, const GradInputs& in, const ForwardConstants* forward,
                             GradSums* out) const {
  const RowConstants c = constants(forward, nullptr);
  std::fill_n(scratch_.first, view_.tasks * view_.width, 0.0);
  std::fill_n(scratch_.second, view_.tasks * view_.width, 0.0);
  for_rows(threads, false,
           [&](std::int64_t t, std::int64_t row, std::int64_t rows, std::int64_t width) {
             kernels_.row_grad_moments(
                 at(in, row), rows, width, c, activation_, scratch_.first + t * view_.width,
                 scratch_.second + t * view_.width, scratch_.lanes + t * 2 * view_.width);
           });
  fold_tasks();
  for (std::int64_t i = 0; i < view_.c; ++i)
    out[i] = {folded(scratch_.first, i), folded(scratch_.second, i)};
}

void RowPasses::grad_input(int threads, const GradInputs& in, const GradOutputs& out,
                           const std::uint8_t* mask, const ForwardConstants* forward,
                           const BackwardConstants* backward, bool frozen) const {
  const RowConstants c = constants(forward, backward);
  for_rows(threads, true,
           [&](std::int64_t, std::int64_t row, std::int64_t rows, std::int64_t width) {
             kernels_.row_grad_input(at(in, row), {at(out.dx, row), at(out.dresidual, row)}, rows,
                                     width, mask == nullptr ? nullptr : mask + row, c, activation_,
                                     frozen, stores(in.dy, out.dx));
           });
}

}  // namespace syncnorm::cpu
