#include "xla_ffi_call.hpp"

#include <algorithm>
#include <cstdint>

#include "errors.hpp"
#include "option_names.hpp"

namespace syncnorm::bindings::xla {
namespace {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT, concat(parts...));
}

syncnorm_dtype dtype_of(const XLA_FFI_Buffer& buffer, std::string_view name) {
  switch (buffer.dtype) {
    case XLA_FFI_DataType_F16: return SYNCNORM_FLOAT16;
    case XLA_FFI_DataType_BF16: return SYNCNORM_BFLOAT16;
    case XLA_FFI_DataType_F32: return SYNCNORM_FLOAT32;
    case XLA_FFI_DataType_F64: return SYNCNORM_FLOAT64;
    default:
      fail(name, ": got XLA's type ", static_cast<int>(buffer.dtype),
           ", expected float16, bfloat16, float32 or float64");
  }
}

void require_count(const XLA_FFI_Buffer& buffer, std::string_view name, std::int64_t expected) {
  const std::int64_t count = count_of(buffer);
  if (count != expected) fail(name, ": got ", count, " values, expected ", expected);
}

// 64-bit values, or their halves as uint32.
void* bits64(const XLA_FFI_Buffer& buffer, std::string_view name, XLA_FFI_DataType dtype,
             std::int64_t length) {
  const bool halves = buffer.dtype == XLA_FFI_DataType_U32;
  if (!halves && buffer.dtype != dtype)
    fail(name, ": got XLA's type ", static_cast<int>(buffer.dtype), ", expected ",
         static_cast<int>(dtype), " or uint32 with twice the length");
  require_count(buffer, name, halves ? 2 * length : length);
  return buffer.data;
}

template <class Enum, std::size_t Count>
Enum choice(const Frame& frame, const char* option, const char* const (&names)[Count]) {
  const std::string_view name = frame.text(option);
  if (const std::optional<Enum> value = find_choice<Enum>(name, names)) return *value;
  fail(option, ": got '", name, "', expected one of ", listed(names));
}

}  // namespace

syncnorm_launch launch_of(const Frame& frame) {
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  launch.device = frame.device();
  if (launch.device == SYNCNORM_CUDA) {
    launch.stream = frame.stream();
    launch.device_index = frame.device_index();
  }
  return launch;
}

std::int64_t doubles_in(const XLA_FFI_Buffer& buffer) {
  return count_of(buffer) / (buffer.dtype == XLA_FFI_DataType_U32 ? 2 : 1);
}

double* as_doubles(const XLA_FFI_Buffer& buffer, std::string_view name, std::int64_t length) {
  return static_cast<double*>(bits64(buffer, name, XLA_FFI_DataType_F64, length));
}

Call::Call(const Frame& frame) : frame_(frame) {
  read_options();
  read_shape();
  read_launch();
  check(syncnorm_query_sizes(&shape_, &options_, launch_.device, &sizes_));
}

void Call::read_options() {
  options_.eps = frame_.number("eps");
  options_.momentum = frame_.optional_number("momentum").value_or(SYNCNORM_MOMENTUM_CUMULATIVE);
  options_.negative_slope = frame_.number("negative_slope");
  options_.weighting = choice<syncnorm_weighting>(frame_, "weighting", kWeightings);
  options_.eps_mode = choice<syncnorm_eps_mode>(frame_, "eps_mode", kEpsModes);
  options_.variance_factor =
      choice<syncnorm_variance_factor>(frame_, "variance_factor", kVarianceFactors);
  options_.grad_reduction =
      choice<syncnorm_grad_reduction>(frame_, "grad_reduction", kGradReductions);
  options_.centering = choice<syncnorm_centering>(frame_, "centering", kCenterings);
  options_.activation = choice<syncnorm_activation>(frame_, "activation", kActivations);
  options_.in_place = frame_.flag("in_place") ? 1 : 0;
  options_.tag = static_cast<std::uint64_t>(frame_.integer("tag"));
}

void Call::read_shape() {
  const XLA_FFI_Buffer& x = frame_.at("x");
  if (x.rank != 3) fail("x: got ", x.rank, " axes, expected (N, C, S) or (N, S, C)");
  const bool last = frame_.flag("channels_last");
  shape_.n = x.dims[0];
  shape_.c = x.dims[last ? 2 : 1];
  shape_.s = x.dims[last ? 1 : 2];
  shape_.dtype = dtype_of(x, "x");
  shape_.layout = last ? SYNCNORM_CHANNELS_LAST : SYNCNORM_CHANNELS_FIRST;
}

void Call::read_launch() {
  launch_ = launch_of(frame_);
  // A number beyond the type is refused by the core as any other that is too large.
  launch_.num_threads = static_cast<std::int32_t>(
      std::clamp<std::int64_t>(frame_.integer("num_threads"), INT32_MIN, INT32_MAX));
  const XLA_FFI_Buffer& workspace = frame_.at("workspace");
  if (workspace.dtype != XLA_FFI_DataType_U8) fail("workspace: expected uint8");
  launch_.workspace = workspace.data;
  launch_.workspace_size = static_cast<std::size_t>(count_of(workspace));
}

void* Call::like_x(std::string_view name) const {
  const XLA_FFI_Buffer* buffer = frame_.find(name);
  if (buffer == nullptr) return nullptr;
  if (dtype_of(*buffer, name) != shape_.dtype) fail(name, ": expected x's dtype");
  require_count(*buffer, name, shape_.n * shape_.c * shape_.s);
  return buffer->data;
}

syncnorm_vector Call::vector(std::string_view name) const {
  const XLA_FFI_Buffer* buffer = frame_.find(name);
  if (buffer == nullptr) return {nullptr, SYNCNORM_FLOAT32};
  require_count(*buffer, name, shape_.c);
  return {buffer->data, dtype_of(*buffer, name)};
}

double* Call::doubles(std::string_view name, std::int64_t length) const {
  const XLA_FFI_Buffer* buffer = frame_.find(name);
  return buffer == nullptr ? nullptr : as_doubles(*buffer, name, length);
}

const std::uint8_t* Call::mask() const {
  const XLA_FFI_Buffer* buffer = frame_.find("mask");
  if (buffer == nullptr) return nullptr;
  if (buffer->dtype != XLA_FFI_DataType_U8 && buffer->dtype != XLA_FFI_DataType_PRED)
    fail("mask: got XLA's type ", static_cast<int>(buffer->dtype), ", expected uint8 or bool");
  require_count(*buffer, "mask", shape_.n * shape_.s);
  return static_cast<const std::uint8_t*>(buffer->data);
}

std::int64_t* Call::counter(std::string_view name) const {
  const XLA_FFI_Buffer* buffer = frame_.find(name);
  if (buffer == nullptr) return nullptr;
  return static_cast<std::int64_t*>(bits64(*buffer, name, XLA_FFI_DataType_S64, 1));
}

}  // namespace syncnorm::bindings::xla
