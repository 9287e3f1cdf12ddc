// Converts the call frame of XLA to the structs of the C interface, and checks sizes.
//
// Every call of a phase has the operand x, (N, C, S) or with channels_last (N, S, C); the
// attributes channels_last, tag, num_threads and those of Options (without momentum: the cumulative
// average); and the result "workspace".
#pragma once

#include <cstdint>
#include <string_view>

#include "syncnorm/syncnorm.h"
#include "xla_ffi_frame.hpp"

namespace syncnorm::bindings::xla {

// float64 and int64 arrays may arrive as uint32 arrays of twice the length, because JAX without x64
// has no 64-bit types. Members throw Failure for an array of another type or size.
class Call {
 public:
  explicit Call(const Frame& frame);

  const void* x() const { return like_x("x"); }
  // Type and size of x; nullptr if the call does not have it.
  void* like_x(std::string_view name) const;
  // One value per channel; absent if the call does not have it.
  syncnorm_vector vector(std::string_view name) const;
  // `length` float64 values; nullptr if the call does not have them.
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

// Device and stream of a call, for functions without a workspace.
syncnorm_launch launch_of(const Frame& frame);
// Number of float64 values, stored as float64 or uint32.
std::int64_t doubles_in(const XLA_FFI_Buffer& buffer);
// The float64 values; throws Failure for another type or length.
double* as_doubles(const XLA_FFI_Buffer& buffer, std::string_view name, std::int64_t length);

}  // namespace syncnorm::bindings::xla
