// From what XLA hands over to the structs of the C interface. Conversions and checks of sizes only.
//
// What every call of a phase carries besides its arrays: x as an operand, (N, C, S) or with
// channels_last (N, S, C); the attributes channels_last, tag, num_threads, those of
// syncnorm_options by the names of Options (without momentum: the cumulative average); and the
// result "workspace".
#pragma once

#include <cstdint>
#include <string_view>

#include "syncnorm/syncnorm.h"
#include "xla_ffi_frame.hpp"

namespace syncnorm::bindings::xla {

// Float64 values and counters may be given as uint32, twice as many: a JAX without x64 has no other
// name for their bits. Members throw Failure for an array of another type or size.
class Call {
 public:
  explicit Call(const Frame& frame);

  const void* x() const { return like_x("x"); }
  // Of x's type and size; nullptr if it is not given.
  void* like_x(std::string_view name) const;
  // One value per channel; absent if it is not given.
  syncnorm_vector vector(std::string_view name) const;
  // `length` float64 values; nullptr if not given.
  double* doubles(std::string_view name, std::int64_t length) const;
  const std::uint8_t* mask() const;
  std::int64_t* counter(std::string_view name) const;

  std::int64_t group_size() const { return frame_.integer("group_size"); }
  const syncnorm_shape* shape() const noexcept { return &shape_; }
  const syncnorm_options* options() const noexcept { return &options_; }
  const syncnorm_launch* launch() const noexcept { return &launch_; }
  const syncnorm_sizes& sizes() const noexcept { return sizes_; }

 private:
  void read_options();
  void read_shape();
  void read_launch();

  const Frame& frame_;
  syncnorm_shape shape_ = SYNCNORM_SHAPE_INIT;
  syncnorm_options options_ = SYNCNORM_OPTIONS_INIT;
  syncnorm_launch launch_ = SYNCNORM_LAUNCH_INIT;
  syncnorm_sizes sizes_ = SYNCNORM_SIZES_INIT;
};

// Device and stream of a call, for functions that need no workspace.
syncnorm_launch where(const Frame& frame);
// How many float64 values it holds, or their bits.
std::int64_t doubles_in(const XLA_FFI_Buffer& buffer) noexcept;
// Its float64 values; throws Failure, which names the array, where it holds others.
double* as_doubles(const XLA_FFI_Buffer& buffer, std::string_view name, std::int64_t length);

}  // namespace syncnorm::bindings::xla
