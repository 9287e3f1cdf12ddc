#include "array_checks.hpp"

#include <cstdint>

#include "errors.hpp"

namespace syncnorm::bindings {

bool is_dtype(const ArrayView& view, int code, int bits) noexcept {
  return view.dtype.code == code && view.dtype.bits == bits && view.dtype.lanes == 1;
}

syncnorm_dtype require_float_dtype(const ArrayView& view, const char* name) {
  if (is_dtype(view, kDLFloat, 16)) return SYNCNORM_FLOAT16;
  if (is_dtype(view, kDLBfloat, 16)) return SYNCNORM_BFLOAT16;
  if (is_dtype(view, kDLFloat, 32)) return SYNCNORM_FLOAT32;
  if (is_dtype(view, kDLFloat, 64)) return SYNCNORM_FLOAT64;
  fail_argument(name, ": got dtype ", dtype_name(view.dtype),
                ", expected float16, bfloat16, float32 or float64");
}

void require_float64(const ArrayView& view, const char* name) {
  if (!is_dtype(view, kDLFloat, 64))
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), ", expected float64");
}

void require_writable(const ArrayView& view, const char* name, Access access) {
  if (access == Access::kWrite && view.read_only)
    fail_argument(name, ": is read-only, expected a writable array");
}

void require_contiguous(const ArrayView& view, const char* name) {
  if (!view.is_contiguous())
    fail_argument(name, ": got strides ", strides_text(view), " for shape ", shape_text(view),
                  ", expected a contiguous array: pass a contiguous copy");
}

void require_aligned(const ArrayView& view, const char* name) {
  const auto size = static_cast<std::uintptr_t>(view.item_size());
  if (size > 0 && view.count() > 0 && reinterpret_cast<std::uintptr_t>(view.data) % size != 0)
    fail_argument(name, ": got an address that is not a multiple of the ", size, " bytes of dtype ",
                  dtype_name(view.dtype), ", expected an aligned array: pass a copy");
}

syncnorm_device require_device(DLDevice device, const char* name) {
  if (device.device_type == kDLCPU) return SYNCNORM_CPU;
  if (device.device_type == kDLCUDA) return SYNCNORM_CUDA;
  raise(SYNCNORM_UNSUPPORTED, concat(name, ": is on ", device_name(device),
                                     ", expected an array on a cpu or cuda device"));
}

void* require_memory(const ArrayView& view, const char* name) {
  require_aligned(view, name);
  if (view.data == nullptr && view.count() > 0)
    fail_argument(name, ": got a null pointer for shape ", shape_text(view),
                  ", expected an allocated array");
  return view.data;
}

bool is_channels_last(const ArrayView& view) noexcept {
  std::int64_t expected = 1;
  bool dense = true;
  const auto next_axis = [&](int axis) {
    dense = dense && (view.shape[axis] == 1 || view.strides[axis] == expected);
    expected *= view.shape[axis];
  };
  next_axis(1);
  for (int axis = view.ndim - 1; axis >= 2; --axis) next_axis(axis);
  next_axis(0);
  return dense || expected == 0;  // without elements any strides are dense
}

bool same_shape(const ArrayView& a, const ArrayView& b) noexcept {
  if (a.ndim != b.ndim) return false;
  for (int axis = 0; axis < a.ndim; ++axis)
    if (a.shape[axis] != b.shape[axis]) return false;
  return true;
}

bool same_device(DLDevice a, DLDevice b) noexcept {
  return a.device_type == b.device_type && a.device_id == b.device_id;
}

std::size_t size_in_bytes(const ArrayView& view) noexcept {
  return static_cast<std::size_t>(view.count() * view.item_size());
}

std::string shape_text(const ArrayView& view) { return tuple_text(view.shape, view.ndim); }
std::string strides_text(const ArrayView& view) { return tuple_text(view.strides, view.ndim); }

ArrayView contiguous_float64(nb::handle object, const char* name, Access access) {
  const ArrayView view = view_of(object, name);
  require_float64(view, name);
  require_contiguous(view, name);
  require_writable(view, name, access);
  return view;
}

}  // namespace syncnorm::bindings
