// The inner loops of the CPU backend: per instruction set and dtype one table of functions for
// identity, relu and leaky_relu where backward has x, and one for every activation and in place.
//
// "Plane" functions work on one channel of channels-first data: `planes` runs of `length`
// consecutive values, `stride` values apart. "Row" functions work on channels-last data: `rows`
// runs of `width` consecutive values, one channel per position. Buffers are of the table's dtype;
// constants and `A*` buffers are of its arithmetic type (double for float64, else float).
#pragma once

#include <cstdint>

#include "math/moments.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::cpu {

struct Planes {
  std::int64_t planes;
  std::int64_t stride;
  std::int64_t length;
};

// A mask over planes: one byte per position, `stride` bytes from one plane to the next.
struct PlaneMask {
  const std::uint8_t* data;  // nullptr: every position counts
  std::int64_t stride;
};

// Whether outputs are written past the caches.
enum class Stores : bool { kCached, kStreamed };

struct Activation {
  syncnorm_activation kind;
  double negative_slope;
  bool in_place;  // what the backward passes read as x is y
};

// y = act(((x - hi) - lo)*scale + bias [+ residual])
struct ForwardConstants {
  double hi, lo, scale, bias;
};

// dx = scale*dy' + m*(offset + slope*((v - hi) - lo)), where v is x or, in place, act^-1(y)
struct BackwardConstants {
  double scale, offset, slope;
};

struct GradSums {
  double bias;    // sum dy'
  double weight;  // sum dy'*((v - hi) - lo), to be multiplied by the unit of xhat
};

// What both backward passes read. y is given where x does not tell what the activation was given.
struct GradInputs {
  const void* x;
  const void* dy;
  const void* y;
};

struct GradOutputs {
  void* dx;         // or nullptr
  void* dresidual;  // or nullptr
};

// Per-channel constants of rows: arrays of `width` arithmetic values.
struct RowConstants {
  const void *hi, *lo, *scale, *bias;                 // forward, and again in backward
  const void *grad_scale, *grad_offset, *grad_slope;  // backward
};

struct Kernels {
  // ---- channels first
  Moments (*plane_moments)(const void* x, Planes, PlaneMask);
  void (*plane_normalize)(const void* x, const void* residual, void* y, Planes,
                          const ForwardConstants&, Activation, Stores);
  GradSums (*plane_grad_moments)(const GradInputs&, Planes, const ForwardConstants&, Activation);
  // frozen: offset and slope are not used.
  void (*plane_grad_input)(const GradInputs&, const GradOutputs&, Planes, PlaneMask,
                           const ForwardConstants&, const BackwardConstants&, Activation,
                           bool frozen, Stores);

  // ---- channels last; `scratch` holds 2*width arithmetic values
  // A value near the mean of each column, from up to 16 rows spread over x.
  void (*row_shift)(const void* x, std::int64_t rows, std::int64_t width, const std::uint8_t* mask,
                    void* shift, void* scratch);
  // Sums of x - shift and of its square over the rows that count.
  void (*row_moments)(const void* x, std::int64_t rows, std::int64_t width,
                      const std::uint8_t* mask, const void* shift, double* sum, double* square,
                      void* scratch);
  void (*row_normalize)(const void* x, const void* residual, void* y, std::int64_t rows,
                        std::int64_t width, const RowConstants&, Activation, Stores);
  void (*row_grad_moments)(const GradInputs&, std::int64_t rows, std::int64_t width,
                           const RowConstants&, Activation, double* bias, double* weight,
                           void* scratch);
  void (*row_grad_input)(const GradInputs&, const GradOutputs&, std::int64_t rows,
                         std::int64_t width, const std::uint8_t* mask, const RowConstants&,
                         Activation, bool frozen, Stores);
};

}  // namespace syncnorm::cpu
