#include "arguments.hpp"

#include <new>
#include <string>

#include "docstrings.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

constexpr std::align_val_t kWorkspaceAlignment{64};

struct Sizes {
  syncnorm_sizes values;
};

}  // namespace

HostWorkspace::HostWorkspace(std::size_t size)
    : memory_(::operator new(size, kWorkspaceAlignment, std::nothrow)) {
  if (!memory_)
    raise(SYNCNORM_OUT_OF_MEMORY, concat("workspace: cannot allocate ", size, " bytes"));
}

void HostWorkspace::Free::operator()(void* memory) const noexcept {
  ::operator delete(memory, kWorkspaceAlignment);
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
  if (launch.needs_workspace && launch.workspace.is_none()) allocate_workspace();
}

void Arguments::read_shape() {
  if (x_.ndim < 2)
    fail_argument("x: got shape ", shape_text(x_), ", expected (N, C, ...) with at least 2 axes");
  shape_.dtype = require_float_dtype(x_, "x");
  launch_.device = require_device(x_.device, "x");
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
    launch_.control = require_memory(control, "control");
  }
  if (!launch.status.is_none()) {
    const ArrayView status = on_device(launch.status, "status", Access::kWrite);
    if (!is_dtype(status, kDLInt, 32) || status.count() != 1)
      fail_argument("status: got dtype ", dtype_name(status.dtype), " and shape ",
                    shape_text(status), ", expected one int32 value");
    launch_.status = static_cast<std::int32_t*>(status.data);
  }
}

void Arguments::allocate_workspace() {
  if (launch_.device != SYNCNORM_CPU)
    fail_argument("workspace: got None, expected an array of at least ", sizes_.workspace_size,
                  " bytes on ", device_name(x_.device),
                  ": only a call on the CPU may leave it out");
  workspace_ = HostWorkspace(sizes_.workspace_size);
  launch_.workspace = workspace_.data();
  launch_.workspace_size = sizes_.workspace_size;
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
  if (!same_dtype(view.dtype, x_.dtype))
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), ", expected x's dtype ",
                  dtype_name(x_.dtype));
  const bool channels_last = shape_.layout == SYNCNORM_CHANNELS_LAST;
  if (channels_last ? !is_channels_last(view) : !view.is_contiguous())
    fail_argument(name, ": got strides ", strides_text(view), ", expected x's layout, dense with ",
                  channels_last ? "channels last" : "channels first", " (x has strides ",
                  strides_text(x_), "): pass a copy in x's layout");
  return require_memory(view, name);
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
                  ",), one value per channel of x of shape ", shape_text(x_));
  require_contiguous(view, name);
  return {require_memory(view, name), dtype};
}

double* Arguments::float64_data(nb::handle object, const char* name, std::int64_t length,
                                Length rule, Access access) const {
  const ArrayView view = on_device(object, name, access);
  require_float64(view, name);
  const bool exact = rule == Length::kExact;
  if (view.ndim != 1 || view.shape[0] < length || (exact && view.shape[0] > length))
    fail_argument(name, ": got shape ", shape_text(view), ", expected ", exact ? "(" : "at least (",
                  length, ",); sizes(x, options) gives the lengths");
  require_contiguous(view, name);
  return static_cast<double*>(require_memory(view, name));
}

double* Arguments::doubles(nb::handle object, const char* name, std::int64_t length,
                           Access access) const {
  return float64_data(object, name, length, Length::kExact, access);
}

double* Arguments::optional_doubles(nb::handle object, const char* name, std::int64_t length,
                                    Access access) const {
  return object.is_none() ? nullptr : doubles(object, name, length, access);
}

double* Arguments::wire(nb::handle object, const char* name, std::int64_t length,
                        Access access) const {
  return float64_data(object, name, length, Length::kAtLeast, access);
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
  return static_cast<const std::uint8_t*>(require_memory(view, "mask"));
}

std::int64_t* Arguments::counter(nb::handle object, const char* name) const {
  if (object.is_none()) return nullptr;
  const ArrayView view = on_device(object, name, Access::kWrite);
  if (!is_dtype(view, kDLInt, 64) || view.count() != 1)
    fail_argument(name, ": got dtype ", dtype_name(view.dtype), " and shape ", shape_text(view),
                  ", expected one int64 value");
  return static_cast<std::int64_t*>(require_memory(view, name));
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
