// Converts Python arguments to the structs of the C interface. The checks compare metadata; they do
// not read or write the arrays.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "array_checks.hpp"
#include "array_view.hpp"
#include "options.hpp"
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings {

// The Python arguments of syncnorm_launch, and whether the function reads the workspace.
struct LaunchArguments {
  nb::handle workspace;
  nb::handle control;
  std::int32_t num_threads;
  std::uintptr_t stream;
  nb::handle status;
  std::uint64_t tag;
  bool needs_workspace = true;
};

// Uninitialized host memory for the workspace of one call.
class HostWorkspace {
 public:
  HostWorkspace() = default;
  // Raises OutOfMemoryError.
  explicit HostWorkspace(std::size_t size);

  void* data() const noexcept { return memory_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };
  std::unique_ptr<void, Free> memory_;
};

// The arguments of one call. x determines shape, layout and device; members check every other array
// against x. They raise InvalidArgumentError, or ArgumentTypeError if an argument is not an array.
class Arguments {
 public:
  Arguments(const Options& options, nb::handle x);
  Arguments(const Options& options, nb::handle x, const LaunchArguments& launch);

  const void* x() const noexcept { return x_.data; }
  // An array of x's shape, dtype, layout and device.
  void* like_x(nb::handle object, const char* name, Access access) const;
  // nullptr for None.
  void* optional_like_x(nb::handle object, const char* name, Access access) const;
  // (C,), contiguous, of a floating dtype; absent for None.
  syncnorm_vector vector(nb::handle object, const char* name, Access access) const;
  // float64, contiguous, exactly `length` values.
  double* doubles(nb::handle object, const char* name, std::int64_t length, Access access) const;
  double* optional_doubles(nb::handle object, const char* name, std::int64_t length,
                           Access access) const;
  // float64, contiguous, at least `length` values, of which the first are used.
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
  enum class Length { kExact, kAtLeast };

  void read_shape();
  void query_sizes();
  void read_launch(const LaunchArguments& launch);
  // For a CPU call without a workspace. Every call has its own, because callbacks can nest calls.
  void allocate_workspace();
  double* float64_data(nb::handle object, const char* name, std::int64_t length, Length rule,
                       Access access) const;
  ArrayView on_device(nb::handle object, const char* name, Access access) const;

  ArrayView x_;
  syncnorm_shape shape_ = SYNCNORM_SHAPE_INIT;
  syncnorm_options options_;
  syncnorm_launch launch_ = SYNCNORM_LAUNCH_INIT;
  syncnorm_sizes sizes_ = SYNCNORM_SIZES_INIT;
  HostWorkspace workspace_;
};

// The Python class `Sizes` and the function `sizes`.
void bind_sizes(nb::module_& module);

}  // namespace syncnorm::bindings
