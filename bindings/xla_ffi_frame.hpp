// What XLA hands to a handler, by name: XLA itself knows operands and results by their position.
//
// Every call carries two strings as attributes, "operands" and "results": the names of its arrays
// in their order, with spaces between them. An array that is not named is not given.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "syncnorm/syncnorm.h"
#include "vendor/xla_ffi.h"

namespace syncnorm::bindings::xla {

// Thrown by a handler; what XLA reports in place of results.
class Failure : public std::runtime_error {
 public:
  Failure(XLA_FFI_Error_Code code, const std::string& message)
      : std::runtime_error(message), code_(code) {}

  XLA_FFI_Error_Code code() const noexcept { return code_; }

 private:
  XLA_FFI_Error_Code code_;
};

// Throws for a status other than SYNCNORM_OK, with its name and syncnorm_last_error().
void check(syncnorm_status status);

class Frame {
 public:
  // Throws Failure, as all members do, for a version of the interface that is not this header's.
  Frame(const XLA_FFI_CallFrame& frame, syncnorm_device device);

  syncnorm_device device() const noexcept { return device_; }
  // Where a CUDA call runs.
  void* stream() const;
  std::int32_t device_index() const;

  // The array of this name, a result or an operand; nullptr if there is none. One that is both is
  // changed in place, which takes that XLA gave it one memory.
  const XLA_FFI_Buffer* find(std::string_view name) const;
  const XLA_FFI_Buffer& at(std::string_view name) const;

  // Attributes. Python's integers arrive as 64 bits, its floats as float64.
  std::int64_t integer(std::string_view name) const;
  std::optional<double> optional_number(std::string_view name) const;
  double number(std::string_view name) const;
  bool flag(std::string_view name) const;
  std::string_view text(std::string_view name) const;

 private:
  const void* find_attribute(std::string_view name, XLA_FFI_AttrType type) const;
  template <class Value>
  std::optional<Value> scalar(std::string_view name, XLA_FFI_DataType dtype) const;

  const XLA_FFI_CallFrame& frame_;
  syncnorm_device device_;
  std::string_view operands_, results_;
};

std::int64_t count_of(const XLA_FFI_Buffer& buffer) noexcept;

}  // namespace syncnorm::bindings::xla
