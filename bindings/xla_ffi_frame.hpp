// Access to the call frame of XLA by name. XLA identifies operands and results by position.
//
// Every call has two string attributes, "operands" and "results": the names of its arrays in order,
// separated by spaces.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include <xla_ffi.h>
#include "syncnorm/syncnorm.h"

namespace syncnorm::bindings::xla {

// Thrown by a handler; XLA reports it as the error of the call.
class Failure : public std::runtime_error {
 public:
  Failure(XLA_FFI_Error_Code code, const std::string& message)
      : std::runtime_error(message), code_(code) {}

  XLA_FFI_Error_Code code() const noexcept { return code_; }

 private:
  XLA_FFI_Error_Code code_;
};

// Throws Failure for a status other than SYNCNORM_OK, with its name and syncnorm_last_error().
void check(syncnorm_status status);

class Frame {
 public:
  // Throws Failure, as all members do, for another major version of the interface.
  Frame(const XLA_FFI_CallFrame& frame, syncnorm_device device);

  syncnorm_device device() const noexcept { return device_; }
  // Only for CUDA.
  void* stream() const;
  std::int32_t device_index() const;

  // The result or operand of this name; nullptr if there is none. An array that is both is updated
  // in place, so XLA must have aliased them.
  const XLA_FFI_Buffer* find(std::string_view name) const;
  const XLA_FFI_Buffer& at(std::string_view name) const;

  // Attributes. Python integers arrive as int64, floats as float64.
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

// Number of values. Throws Failure if it does not fit 63 bits.
std::int64_t count_of(const XLA_FFI_Buffer& buffer);

}  // namespace syncnorm::bindings::xla
