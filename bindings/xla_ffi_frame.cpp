#include "xla_ffi_frame.hpp"

#include "errors.hpp"

namespace syncnorm::bindings::xla {
namespace {

XLA_FFI_Error_Code code_of(syncnorm_status status) noexcept {
  switch (status) {
    case SYNCNORM_OK: return XLA_FFI_Error_Code_OK;
    case SYNCNORM_INVALID_ARGUMENT: return XLA_FFI_Error_Code_INVALID_ARGUMENT;
    case SYNCNORM_UNSUPPORTED: return XLA_FFI_Error_Code_UNIMPLEMENTED;
    case SYNCNORM_DESYNC: return XLA_FFI_Error_Code_FAILED_PRECONDITION;
    case SYNCNORM_TIMEOUT: return XLA_FFI_Error_Code_DEADLINE_EXCEEDED;
    case SYNCNORM_RANK_LOST: return XLA_FFI_Error_Code_UNAVAILABLE;
    case SYNCNORM_OUT_OF_MEMORY: return XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
    default: return XLA_FFI_Error_Code_INTERNAL;
  }
}

std::string_view view(const XLA_FFI_ByteSpan& text) { return {text.ptr, text.len}; }

// Position of a word in a list separated by spaces; -1 if it is missing.
std::int64_t position(std::string_view words, std::string_view word) {
  for (std::int64_t i = 0; !words.empty(); ++i) {
    const std::size_t end = words.find(' ');
    if (words.substr(0, end) == word) return i;
    words.remove_prefix(end == std::string_view::npos ? words.size() : end + 1);
  }
  return -1;
}

[[noreturn]] void fail_missing(const char* kind, std::string_view name) {
  throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT,
                concat("the call has no ", kind, " '", name, "' of the expected type"));
}

// XLA's getters fill a member of their arguments, or return an error that the caller destroys.
template <class Args>
Args query(const XLA_FFI_CallFrame& frame, XLA_FFI_Error* (*get)(Args*), std::size_t struct_size,
           const char* what) {
  Args args{};
  args.struct_size = struct_size;
  args.ctx = frame.ctx;
  if (XLA_FFI_Error* error = get(&args)) {
    XLA_FFI_Error_Destroy_Args destroy{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    frame.api->XLA_FFI_Error_Destroy(&destroy);
    throw Failure(XLA_FFI_Error_Code_INTERNAL, concat("XLA could not provide the ", what));
  }
  return args;
}

}  // namespace

void check(syncnorm_status status) {
  if (status == SYNCNORM_OK) return;
  throw Failure(code_of(status), concat(syncnorm_status_name(status), ": ", syncnorm_last_error()));
}

Frame::Frame(const XLA_FFI_CallFrame& frame, syncnorm_device device)
    : frame_(frame), device_(device) {
  const XLA_FFI_Api_Version& version = frame.api->api_version;
  if (version.major_version != XLA_FFI_API_MAJOR)
    throw Failure(XLA_FFI_Error_Code_UNIMPLEMENTED,
                  concat("the XLA FFI has version ", version.major_version, ".",
                         version.minor_version, ", expected ", XLA_FFI_API_MAJOR, ".x"));
  operands_ = text("operands");
  results_ = text("results");
}

void* Frame::stream() const {
  return query<XLA_FFI_Stream_Get_Args>(frame_, frame_.api->XLA_FFI_Stream_Get,
                                        XLA_FFI_Stream_Get_Args_STRUCT_SIZE, "stream")
      .stream;
}

std::int32_t Frame::device_index() const {
  return query<XLA_FFI_DeviceOrdinal_Get_Args>(frame_, frame_.api->XLA_FFI_DeviceOrdinal_Get,
                                               XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE, "device")
      .device_ordinal;
}

const XLA_FFI_Buffer* Frame::find(std::string_view name) const {
  const std::int64_t in = position(operands_, name);
  const std::int64_t out = position(results_, name);
  if (in >= frame_.args.size || out >= frame_.rets.size)
    throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT,
                  concat("the call names more arrays than it has: '", name, "' is missing"));
  const auto* operand = in < 0 ? nullptr : static_cast<XLA_FFI_Buffer*>(frame_.args.args[in]);
  const auto* result = out < 0 ? nullptr : static_cast<XLA_FFI_Buffer*>(frame_.rets.rets[out]);
  if (result == nullptr) return operand;
  if (operand != nullptr && operand->data != result->data && count_of(*operand) > 0)
    throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT,
                  concat(name,
                         ": got different memory as operand and as result, expected the "
                         "result to alias the operand: declare the alias"));
  return result;
}

const XLA_FFI_Buffer& Frame::at(std::string_view name) const {
  const XLA_FFI_Buffer* buffer = find(name);
  if (buffer == nullptr) fail_missing("array", name);
  return *buffer;
}

const void* Frame::find_attribute(std::string_view name, XLA_FFI_AttrType type) const {
  const XLA_FFI_Attrs& attributes = frame_.attrs;
  for (std::int64_t i = 0; i < attributes.size; ++i)
    if (attributes.types[i] == type && view(*attributes.names[i]) == name)
      return attributes.attrs[i];
  return nullptr;
}

template <class Value>
std::optional<Value> Frame::scalar(std::string_view name, XLA_FFI_DataType dtype) const {
  const auto* found =
      static_cast<const XLA_FFI_Scalar*>(find_attribute(name, XLA_FFI_AttrType_SCALAR));
  if (found == nullptr || found->dtype != dtype) return std::nullopt;
  return *static_cast<const Value*>(found->value);
}

std::optional<double> Frame::optional_number(std::string_view name) const {
  return scalar<double>(name, XLA_FFI_DataType_F64);
}

std::int64_t Frame::integer(std::string_view name) const {
  const auto found = scalar<std::int64_t>(name, XLA_FFI_DataType_S64);
  if (!found) fail_missing("integer", name);
  return *found;
}

double Frame::number(std::string_view name) const {
  const auto found = optional_number(name);
  if (!found) fail_missing("number", name);
  return *found;
}

bool Frame::flag(std::string_view name) const {
  const auto found = scalar<bool>(name, XLA_FFI_DataType_PRED);
  if (!found) fail_missing("flag", name);
  return *found;
}

std::string_view Frame::text(std::string_view name) const {
  const void* found = find_attribute(name, XLA_FFI_AttrType_STRING);
  if (found == nullptr) fail_missing("string", name);
  return view(*static_cast<const XLA_FFI_ByteSpan*>(found));
}

std::int64_t count_of(const XLA_FFI_Buffer& buffer) {
  std::int64_t product = 1;
  for (std::int64_t axis = 0; axis < buffer.rank; ++axis)
    if (buffer.dims[axis] < 0 || __builtin_mul_overflow(product, buffer.dims[axis], &product))
      throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT,
                    concat("the call has an array of size ", buffer.dims[axis], " on axis ", axis,
                           ", expected sizes >= 0 with a product that fits 63 bits"));
  return product;
}

}  // namespace syncnorm::bindings::xla
