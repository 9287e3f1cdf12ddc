// How a tensor is walked: as planes of one channel each, or as rows of all channels, and in which
// pieces. The pieces follow from the shape alone, never from the number of threads, so that neither
// do the bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/kernels.hpp"
#include "backend/cpu/tuning.hpp"
#include "plan/problem.hpp"
#include "plan/support_table.hpp"

namespace syncnorm::cpu {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Channels first. A chunk is a piece of one plane, or several whole planes of one channel.
struct PlaneView {
  std::int64_t n, c, s;
  std::int64_t pieces;            // chunks in one plane, if planes are long
  std::int64_t piece_length;      // values of one such chunk
  std::int64_t planes_per_chunk;  // planes in one chunk, if planes are short

  PlaneView(std::int64_t n_, std::int64_t c_, std::int64_t s_) : n(n_), c(c_), s(s_) {
    constexpr std::int64_t kAlignment = 64;  // values: pieces begin at whole vectors
    pieces = std::max<std::int64_t>(1, divide_up(s, kChunkValues));
    piece_length = divide_up(divide_up(s, pieces), kAlignment) * kAlignment;
    planes_per_chunk = pieces > 1
                           ? 1
                           : std::clamp<std::int64_t>(kChunkValues / std::max<std::int64_t>(s, 1),
                                                      1, std::max<std::int64_t>(n, 1));
  }

  std::int64_t chunks() const { return divide_up(n, planes_per_chunk) * pieces; }  // of a channel

  struct Chunk {
    std::int64_t first_plane;  // sample
    std::int64_t first_value;  // position
    Planes planes;
  };
  Chunk chunk(std::int64_t k) const {
    const std::int64_t plane = k / pieces * planes_per_chunk;
    const std::int64_t value = std::min(k % pieces * piece_length, s);
    return {plane,
            value,
            {std::min(planes_per_chunk, n - plane), c * s, std::min(piece_length, s - value)}};
  }
  std::int64_t offset(const Chunk& chunk, std::int64_t channel) const {
    return (chunk.first_plane * c + channel) * s + chunk.first_value;
  }
  PlaneMask mask(const std::uint8_t* data, const Chunk& chunk) const {
    if (data == nullptr) return {nullptr, 0};
    return {data + chunk.first_plane * s + chunk.first_value, s};
  }
};

// Channels last. Narrow rows are joined `joined` at a time, so that vectors are filled whatever C
// is; a task is a range of joined rows, and the last task has the rows that are left over.
struct RowView {
  std::int64_t rows, c;
  std::int64_t joined;
  std::int64_t width;  // joined*c
  std::int64_t tasks;
  std::int64_t rows_per_task;  // a multiple of joined

  RowView(std::int64_t rows_, std::int64_t c_, std::int64_t value_size, bool masked)
      : rows(rows_), c(c_) {
    constexpr std::int64_t kLeastRows = 128;  // per task, in joined rows
    joined = masked ? 1 : std::max<std::int64_t>(1, kRowWidth / std::max<std::int64_t>(c, 1));
    width = joined * c;
    const std::int64_t wide_rows = divide_up(rows, joined);
    tasks = std::clamp<std::int64_t>(rows * c * value_size / kRowTaskBytes, 1, kMaxRowTasks);
    tasks = std::clamp<std::int64_t>(wide_rows / kLeastRows, 1, tasks);
    rows_per_task = std::max(divide_up(divide_up(rows, tasks), joined), std::int64_t{1}) * joined;
    tasks = std::max<std::int64_t>(1, divide_up(rows, rows_per_task));
  }

  struct Task {
    std::int64_t first_row;
    std::int64_t wide_rows;  // of `width` values
    std::int64_t rest;       // values after them, less than width
  };
  Task task(std::int64_t t) const {
    const std::int64_t first = std::min(t * rows_per_task, rows);
    const std::int64_t count = std::min(rows_per_task, rows - first);
    return {first, count / joined, count % joined * c};
  }
};

inline std::int64_t value_size(const Problem& problem) {
  return static_cast<std::int64_t>(support_of(problem.dtype).size);
}

inline bool is_float64_arithmetic(const Problem& problem) {
  return support_of(problem.dtype).arithmetic == SYNCNORM_FLOAT64;
}

inline Activation activation_of(const Problem& problem) {
  return {problem.options.activation, problem.options.negative_slope, problem.in_place()};
}

// A tensor with one value per channel and sample is rows in either layout; one with a single
// channel is one plane. One without values has no planes or rows, whatever its sizes are.
inline bool is_rows(const Problem& problem) {
  return problem.c != 1 && (problem.layout == SYNCNORM_CHANNELS_LAST || problem.s == 1);
}

inline PlaneView plane_view(const Problem& problem) {
  if (problem.size() == 0) return {0, problem.c, 0};
  if (problem.c == 1) return {1, 1, problem.n * problem.s};
  return {problem.n, problem.c, problem.s};
}

inline RowView row_view(const Problem& problem, bool masked) {
  const std::int64_t rows = problem.size() == 0 ? 0 : problem.values_per_channel();
  return {rows, problem.c, value_size(problem), masked};
}

}  // namespace syncnorm::cpu
