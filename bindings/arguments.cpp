#include "arguments.hpp"

#include <string>

#include "docstrings.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

// false: not a dtype of the core.
bool float_dtype(DLDataType dtype, syncnorm_dtype& out) noexcept {
  if (dtype.lanes != 1) return false;
  if (dtype.code == kDLBfloat && dtype.bits == 16) return out = SYNCNORM_BFLOAT16, true;
  if (dtype.code != kDLFloat) return false;
  switch (dtype.bits) {
    case 16: return out = SYNCNORM_FLOAT16, true;
    case 32: return out = SYNCNORM_FLOAT32, true;
    case 64: return out = SYNCNORM_FLOAT64, true;
    default: return false;
  }
}

syncnorm_dtype require_float_dtype(const ArrayView& view, const char* name) {
  syncnorm_dtype dtype;
  if (!float_dtype(view.dtype, dtype))
    fail_argument(name, ": got dtype ", dtype_name(view.dtype),
                  ", expected float16, bfloat16, float32 or float64");
  return dtype;
}

bool is_dtype(const ArrayView& view, int code, int bits) noexcept {
  return view.dtype.code == code && view.dtype.bits == bits && view.dtype.lanes == 1;
}

void require_writable(const ArrayView& view, const char* name, Access access) {
  if (access == Access::kWrite && view.read_only)
    fail_argument(name, ": is read-only, expected a writable array");
}

// Whether `view` lies dense with its axes in the order N, spatial, C. Strides of axes with one
// element do not matter, and none do where there is no element.
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
  return dense || expected == 0;
}

bool has_layout(const ArrayView& view, syncnorm_layout layout) noexcept {
  return layout == SYNCNORM_CHANNELS_FIRST ? view.is_contiguous() : is_channels_last(view);
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

std::string shape_text(const ArrayView& view) { return tuple_text(view.shape, view.ndim); }
std::string strides_text(const ArrayView& view) { return tuple_text(view.strides, view.ndim); }

// The core reads and writes whole elements.
void require_aligned(const ArrayView& view, const char* name) {
  const std::int64_t size = view.item_size();
  if (size > 0 && view.count() > 0 && reinterpret_cast<std::uintptr_t>(view.data) % size != 0)
    fail_argument(name, ": starts at an address that is no multiple of the ", size,
                  " bytes of its dtype ", dtype_name(view.dtype), ": pass a copy");
}

// An array without memory must not pass for an argument that was not given.
void* memory_of(const ArrayView& view, const char* name) {
  require_aligned(view, name);
  if (view.data == nullptr && view.count() > 0)
    fail_argument(name, ": has no memory (its pointer is null) for shape ", shape_text(view),
                  ", expected an allocated array");
  return view.data;
}

void require_contiguous(const ArrayView& view, const char* name) {
  if (!view.is_contiguous())
    fail_argument(name, ": got strides ", strides_text(view), " for shape ", shape_text(view),
                  ", expected a contiguous array: pass a contiguous copy");
}

std::size_t size_in_bytes(const ArrayView& view) noexcept {
  return static_cast<std::size_t>(view.count() * view.item_size());
}

struct Sizes {
  syncnorm_sizes values;
};

}  // namespace

syncnorm_device device_kind(DLDevice device, const char* name) {
  if (device.device_type == kDLCPU) return SYNCNORM_CPU;
  if (device.device_type == kDLCUDA) return SYNCNORM_CUDA;
  raise(SYNCNORM_UNSUPPORTED, concat(name, ": is on ", device_name(device),
                                     ", expected an array on a cpu or cuda device"));
}

ArrayView doubles(nb::handle object, const char* name, Access access) {
  const ArrayView view = view_of(object, name);
  if (!is_dtype(view, kDLFloat, 64))
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), ", expected float64");
  require_contiguous(view, name);
  require_writable(view, name, access);
  return view;
}

Arguments::Arguments(const Options& options, nb::handle x)
    : x_(view_of(x, "x")), options_(options.with_tag(0)) {
  read_shape();
  query_sizes();
}

Arguments::Arguments(const Options& options, nb::handle x, const LaunchArguments& launch)
    : x_(view_of(x, "x")), options_(options.with_tag(launch.tag)) {
  require_aligned(x_, "x");
  read_shape();
  read_launch(launch);
  query_sizes();
}

void Arguments::read_shape() {
  if (x_.ndim < 2)
    fail_argument("x: got shape ", shape_text(x_), ", expected (N, C, ...) with at least 2 axes");
  shape_.dtype = require_float_dtype(x_, "x");
  launch_.device = device_kind(x_.device, "x");
  shape_.n = x_.shape[0];
  shape_.c = x_.shape[1];
  for (int axis = 2; axis < x_.ndim; ++axis) shape_.s *= x_.shape[axis];
  if (x_.is_contiguous()) return;
  if (!is_channels_last(x_))
    fail_argument("x: got strides ", strides_text(x_), " for shape ", shape_text(x_),
                  ", expected a dense array, channels first or channels last: pass a dense copy");
  shape_.layout = SYNCNORM_CHANNELS_LAST;
}

void Arguments::read_launch(const LaunchArguments& launch) {
  launch_.device_index = x_.device.device_id;
  launch_.stream = reinterpret_cast<void*>(launch.stream);
  launch_.num_threads = launch.num_threads;
  if (!launch.workspace.is_none()) {
    const ArrayView workspace = on_device(launch.workspace, "workspace", Access::kWrite);
    require_contiguous(workspace, "workspace");
    launch_.workspace = workspace.data;
    launch_.workspace_size = size_in_bytes(workspace);
  }
  if (!launch.control.is_none()) {
    const ArrayView control = on_device(launch.control, "control", Access::kWrite);
    require_contiguous(control, "control");
    if (size_in_bytes(control) < SYNCNORM_CONTROL_SIZE)
      fail_argument("control: got ", size_in_bytes(control), " bytes, expected at least ",
                    SYNCNORM_CONTROL_SIZE, " (CONTROL_SIZE), zeroed once");
    launch_.control = memory_of(control, "control");
  }
  if (!launch.status.is_none()) {
    const ArrayView status = on_device(launch.status, "status", Access::kWrite);
    if (!is_dtype(status, kDLInt, 32) || status.count() != 1)
      fail_argument("status: got dtype ", dtype_name(status.dtype), " and shape ",
                    shape_text(status), ", expected one int32 value");
    launch_.status = static_cast<std::int32_t*>(status.data);
  }
}

void Arguments::query_sizes() {
  check_status(syncnorm_query_sizes(&shape_, &options_, launch_.device, &sizes_));
}

ArrayView Arguments::on_device(nb::handle object, const char* name, Access access) const {
  const ArrayView view = view_of(object, name);
  if (!same_device(view.device, x_.device))
    fail_argument(name, ": is on ", device_name(view.device), ", expected ", device_name(x_.device),
                  " where x is");
  require_writable(view, name, access);
  return view;
}

void* Arguments::like_x(nb::handle object, const char* name, Access access) const {
  const ArrayView view = on_device(object, name, access);
  if (!same_shape(view, x_))
    fail_argument(name, ": got shape ", shape_text(view), ", expected x's shape ", shape_text(x_));
  if (view.dtype.code != x_.dtype.code || view.dtype.bits != x_.dtype.bits ||
      view.dtype.lanes != x_.dtype.lanes)
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), ", expected x's dtype ",
                  dtype_name(x_.dtype));
  if (!has_layout(view, shape_.layout))
    fail_argument(name, ": got strides ", strides_text(view), ", expected x's layout, dense with ",
                  shape_.layout == SYNCNORM_CHANNELS_LAST ? "channels last" : "channels first",
                  " (x has strides ", strides_text(x_), "): pass a copy in x's layout");
  return memory_of(view, name);
}

void* Arguments::optional_like_x(nb::handle object, const char* name, Access access) const {
  return object.is_none() ? nullptr : like_x(object, name, access);
}

syncnorm_vector Arguments::vector(nb::handle object, const char* name, Access access) const {
  if (object.is_none()) return {nullptr, SYNCNORM_FLOAT32};
  const ArrayView view = on_device(object, name, access);
  const syncnorm_dtype dtype = require_float_dtype(view, name);
  if (view.ndim != 1 || view.shape[0] != shape_.c)
    fail_argument(name, ": got shape ", shape_text(view), ", expected (", shape_.c,
                  ",): one value per channel of x, which has shape ", shape_text(x_));
  require_contiguous(view, name);
  return {memory_of(view, name), dtype};
}

double* Arguments::wire(nb::handle object, const char* name, std::int64_t length,
                        Access access) const {
  const ArrayView view = on_device(object, name, access);
  if (!is_dtype(view, kDLFloat, 64))
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), ", expected float64");
  if (view.ndim != 1 || view.shape[0] != length)
    fail_argument(name, ": got shape ", shape_text(view), ", expected (", length,
                  ",); sizes(x, options) gives the lengths");
  require_contiguous(view, name);
  return static_cast<double*>(memory_of(view, name));
}

double* Arguments::optional_wire(nb::handle object, const char* name, std::int64_t length,
                                 Access access) const {
  return object.is_none() ? nullptr : wire(object, name, length, access);
}

const std::uint8_t* Arguments::mask(nb::handle object) const {
  if (object.is_none()) return nullptr;
  const ArrayView view = on_device(object, "mask", Access::kRead);
  if (!is_dtype(view, kDLUInt, 8) && !is_dtype(view, kDLBool, 8))
    fail_argument("mask: got dtype ", dtype_name(view.dtype), ", expected uint8 or bool");
  bool matches = view.ndim == x_.ndim - 1 && view.shape[0] == shape_.n;
  for (int axis = 2; matches && axis < x_.ndim; ++axis)
    matches = view.shape[axis - 1] == x_.shape[axis];
  if (!matches)
    fail_argument("mask: got shape ", shape_text(view), ", expected x's shape ", shape_text(x_),
                  " without its axis 1");
  require_contiguous(view, "mask");
  return static_cast<const std::uint8_t*>(memory_of(view, "mask"));
}

std::int64_t* Arguments::counter(nb::handle object, const char* name) const {
  if (object.is_none()) return nullptr;
  const ArrayView view = on_device(object, name, Access::kWrite);
  if (!is_dtype(view, kDLInt, 64) || view.count() != 1)
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), " and shape ", shape_text(view),
                  ", expected one int64 value");
  return static_cast<std::int64_t*>(memory_of(view, name));
}

void bind_sizes(nb::module_& module) {
  module.attr("CONTROL_SIZE") = SYNCNORM_CONTROL_SIZE;
  nb::class_<Sizes>(module, "Sizes", doc::kSizes)
      .def_prop_ro("wire", [](const Sizes& self) { return self.values.wire_length; })
      .def_prop_ro("center_wire", [](const Sizes& self) { return self.values.center_wire_length; })
      .def_prop_ro("grad_wire", [](const Sizes& self) { return self.values.grad_wire_length; })
      .def_prop_ro("saved", [](const Sizes& self) { return self.values.saved_length; })
      .def_prop_ro("workspace", [](const Sizes& self) { return self.values.workspace_size; })
      .def("__repr__", [](const Sizes& self) {
        return nb::str(concat("Sizes(wire=", self.values.wire_length,
                              ", center_wire=", self.values.center_wire_length, ", grad_wire=",
                              self.values.grad_wire_length, ", saved=", self.values.saved_length,
                              ", workspace=", self.values.workspace_size, ")")
                           .c_str());
      });
  module.def(
      "sizes",
      [](nb::handle x, const Options& options) { return Sizes{Arguments(options, x).sizes()}; },
      nb::arg("x"), nb::arg("options"), doc::kSizesFunction);
}

}  // namespace syncnorm::bindings
