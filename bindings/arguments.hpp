// From Python arguments to the structs of the C interface. Every check here compares metadata;
// nothing is read or written.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "array_view.hpp"
#include "options.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

// The arguments that say where and how a call runs.
struct LaunchArguments {
  nb::handle workspace;
  nb::handle control;
  std::int32_t num_threads;
  std::uintptr_t stream;
  nb::handle status;
  std::uint64_t tag;
};

enum class Access { kRead, kWrite };

// One call: shape, layout and device are taken from x, and every other array is held against them.
// Members raise InvalidArgumentError, or TypeError for what is no array, naming the argument.
class Arguments {
 public:
  Arguments(const Options& options, nb::handle x);
  Arguments(const Options& options, nb::handle x, const LaunchArguments& launch);

  const void* x() const noexcept { return x_.data; }
  // An array of x's shape, dtype, layout and device.
  void* like_x(nb::handle object, const char* name, Access access) const;
  // The same, or nullptr for None.
  void* optional_like_x(nb::handle object, const char* name, Access access) const;
  // [C], contiguous, of a floating dtype; absent for None.
  syncnorm_vector vector(nb::handle object, const char* name, Access access) const;
  // float64, contiguous, `length` values.
  double* wire(nb::handle object, const char* name, std::int64_t length, Access access) const;
  double* optional_wire(nb::handle object, const char* name, std::int64_t length,
                        Access access) const;
  // uint8 or bool, (N, *spatial), contiguous; nullptr for None.
  const std::uint8_t* mask(nb::handle object) const;
  // One int64 value; nullptr for None.
  std::int64_t* counter(nb::handle object, const char* name) const;

  const syncnorm_shape* shape() const noexcept { return &shape_; }
  const syncnorm_options* options() const noexcept { return &options_; }
  const syncnorm_launch* launch() const noexcept { return &launch_; }
  const syncnorm_sizes& sizes() const noexcept { return sizes_; }

 private:
  void read_shape();
  void query_sizes();
  void read_launch(const LaunchArguments& launch);
  ArrayView on_device(nb::handle object, const char* name, Access access) const;

  ArrayView x_;
  syncnorm_shape shape_ = SYNCNORM_SHAPE_INIT;
  syncnorm_options options_;
  syncnorm_launch launch_ = SYNCNORM_LAUNCH_INIT;
  syncnorm_sizes sizes_ = SYNCNORM_SIZES_INIT;
};

// A contiguous float64 array of any length, wherever it is.
ArrayView doubles(nb::handle object, const char* name, Access access);
// Raises UnsupportedError for a device that syncnorm does not know.
syncnorm_device device_kind(DLDevice device, const char* name);

// Sizes as Python sees them, and the function that makes them.
void bind_sizes(nb::module_& module);

}  // namespace syncnorm::bindings
