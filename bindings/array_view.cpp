#include "array_view.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "docstrings.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

struct NamedDtype {
  const char* name;
  DLDataType dtype;
};

constexpr NamedDtype kDtypes[] = {
    {"float16", {kDLFloat, 16, 1}}, {"bfloat16", {kDLBfloat, 16, 1}},
    {"float32", {kDLFloat, 32, 1}}, {"float64", {kDLFloat, 64, 1}},
    {"int64", {kDLInt, 64, 1}},     {"int32", {kDLInt, 32, 1}},
    {"uint8", {kDLUInt, 8, 1}},     {"bool", {kDLBool, 8, 1}},
};

DLDataType dtype_of(const std::string& name) {
  for (const NamedDtype& known : kDtypes)
    if (name == known.name) return known.dtype;
  fail_argument("dtype: got '", name,
                "', expected float16, bfloat16, float32, float64, int64, int32, uint8 or bool");
}

DLDevice device_of(const std::string& name, int index) {
  if (name == "cpu") return {kDLCPU, 0};
  if (name == "cuda") return {kDLCUDA, index};
  fail_argument("device: got '", name, "', expected 'cpu' or 'cuda'");
}

// Memory that host and device share: pinned memory counts as the CPU's, managed as the device's.
DLDevice normalized(DLDevice device) noexcept {
  switch (device.device_type) {
    case kDLCUDAHost: return {kDLCPU, 0};
    case kDLCUDAManaged: return {kDLCUDA, device.device_id};
    default: return device;
  }
}

constexpr int kMaxAxes = 64;  // as in NumPy; no framework has more

// Sizes of 0 count as 1, because products of some of the axes are needed too.
void check_shape(const ArrayView& view, const char* name) {
  std::int64_t bytes = std::max<std::int64_t>(view.item_size(), 1);
  for (int axis = 0; axis < view.ndim; ++axis) {
    const std::int64_t size = view.shape[axis];
    if (size < 0) fail_argument(name, ": got a size of ", size, ", expected sizes >= 0");
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes))
      fail_argument(name, ": got shape ", tuple_text(view.shape, view.ndim), " of ",
                    dtype_name(view.dtype), ", expected a shape with a product that fits 63 bits");
  }
}

// Bytes that an array spans, relative to its first element.
struct Span {
  std::int64_t begin;
  std::int64_t end;
};

// nullopt where the span does not fit 64 bits. Strides are in units of `stride_size` bytes.
template <class Integer>
std::optional<Span> span_of(const Integer* shape, const Integer* strides, int ndim,
                            std::int64_t stride_size, std::int64_t item_size) {
  Span span{0, item_size};
  for (int axis = 0; axis < ndim; ++axis) {
    if (shape[axis] == 0) return Span{0, 0};
    std::int64_t reach = 0;
    std::int64_t& bound = strides[axis] < 0 ? span.begin : span.end;
    if (__builtin_mul_overflow(shape[axis] - 1, strides[axis], &reach) ||
        __builtin_mul_overflow(reach, stride_size, &reach) ||
        __builtin_add_overflow(bound, reach, &bound))
      return std::nullopt;
  }
  return span;
}

std::optional<Span> span_of(const ArrayView& view) {
  return span_of(view.shape, view.strides, view.ndim, view.item_size(), view.item_size());
}

PyObject* array_type = nullptr;  // borrowed; the module outlives every call

// Cache of the exchange tables of the last types. It holds references to the types, so that no
// other type gets the address of an entry.
class ExchangeTables {
 public:
  const DLPackExchangeAPI* cached(PyTypeObject* type) const noexcept {
    for (const Entry& entry : entries_)
      if (entry.type == type) return entry.table;
    return nullptr;
  }

  // nullptr if the type has no table, or none of this DLPack version.
  const DLPackExchangeAPI* look_up(PyTypeObject* type) {
    nb::handle type_object(reinterpret_cast<PyObject*>(type));
    nb::object capsule = nb::getattr(type_object, "__dlpack_c_exchange_api__", nb::none());
    if (!PyCapsule_IsValid(capsule.ptr(), kCapsuleName)) return nullptr;
    auto* header = static_cast<const DLPackExchangeAPIHeader*>(
        PyCapsule_GetPointer(capsule.ptr(), kCapsuleName));
    while (header != nullptr && header->version.major != DLPACK_MAJOR_VERSION)
      header = header->prev_api;
    auto* table = reinterpret_cast<const DLPackExchangeAPI*>(header);
    if (table == nullptr || table->dltensor_from_py_object_no_sync == nullptr) return nullptr;
    store(type_object, type, table);
    return table;
  }

 private:
  static constexpr const char* kCapsuleName = "dlpack_exchange_api";

  struct Entry {
    PyTypeObject* type = nullptr;
    const DLPackExchangeAPI* table = nullptr;
  };

  void store(nb::handle type_object, PyTypeObject* type, const DLPackExchangeAPI* table) {
    Entry& slot = entries_[next_];
    next_ = (next_ + 1) % entries_.size();
    nb::object replaced = nb::steal(reinterpret_cast<PyObject*>(slot.type));
    type_object.inc_ref();
    slot = {type, table};
  }

  std::array<Entry, 8> entries_{};
  std::size_t next_ = 0;
};

ExchangeTables exchange_tables;  // guarded by the GIL

ArrayView view_of_dlpack(nb::handle object, const DLPackExchangeAPI* table, const char* name) {
  DLTensor tensor{};
  if (table->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) {
    nb::python_error cause;
    fail_type(name, ": got a ", nb::inst_name(object).c_str(),
              " that its library does not export through DLPack, expected a dense array in the "
              "memory of the CPU or of a CUDA device: ",
              cause.what());
  }
  if (tensor.ndim < 0 || tensor.ndim > kMaxAxes)
    fail_argument(name, ": got a DLPack tensor with ", tensor.ndim, " axes, expected 0 to ",
                  kMaxAxes);
  if (tensor.ndim > 0 && tensor.shape == nullptr)
    fail_argument(name, ": got a DLPack tensor without a shape, expected one size per axis");
  if (tensor.ndim > 0 && tensor.strides == nullptr)
    fail_type(name, ": got a DLPack tensor without strides, expected strides: pass an Array");
  if (tensor.dtype.lanes != 1)
    fail_argument(name, ": got a DLPack tensor with ", tensor.dtype.lanes,
                  " lanes per element, expected 1");
  const auto first = reinterpret_cast<std::uintptr_t>(tensor.data);
  const ArrayView view{first == 0 ? nullptr : reinterpret_cast<void*>(first + tensor.byte_offset),
                       tensor.shape,
                       tensor.strides,
                       tensor.ndim,
                       tensor.dtype,
                       normalized(tensor.device),
                       false};
  check_shape(view, name);
  return view;
}

}  // namespace

std::int64_t ArrayView::count() const noexcept {
  std::int64_t product = 1;
  for (int axis = 0; axis < ndim; ++axis) product *= shape[axis];
  return product;
}

bool ArrayView::is_contiguous() const noexcept {
  std::int64_t expected = 1;
  bool dense = true;
  for (int axis = ndim - 1; axis >= 0; --axis) {
    if (shape[axis] == 0) return true;
    dense = dense && (shape[axis] == 1 || strides[axis] == expected);
    expected *= shape[axis];
  }
  return dense;
}

bool ArrayView::overlaps(const ArrayView& other) const noexcept {
  if (count() == 0 || other.count() == 0) return false;
  const Span mine = *span_of(*this);
  const Span others = *span_of(other);
  const auto at = [](const ArrayView& view, std::int64_t offset) {
    return reinterpret_cast<std::uintptr_t>(view.data) + static_cast<std::uintptr_t>(offset);
  };
  return at(*this, mine.begin) < at(other, others.end) &&
         at(other, others.begin) < at(*this, mine.end);
}

Array::Array(std::uintptr_t pointer, std::vector<std::int64_t> shape,
             std::vector<std::int64_t> strides, const std::string& dtype, const std::string& device,
             int device_index, bool read_only, nb::object owner)
    : pointer_(pointer),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      dtype_(dtype_of(dtype)),
      device_(device_of(device, device_index)),
      read_only_(read_only),
      owner_(std::move(owner)) {
  if (shape_.size() != strides_.size())
    fail_argument("strides: got ", strides_.size(), " values, expected one for each of the ",
                  shape_.size(), " axes of shape");
  check_shape(view(), "shape");
  check_extent();
}

void Array::check_extent() const {
  const ArrayView self = view();
  const std::optional<Span> span = span_of(self);
  const bool wraps = !span || pointer_ < 0 - static_cast<std::uintptr_t>(span->begin) ||
                     static_cast<std::uintptr_t>(span->end) > UINTPTR_MAX - pointer_;
  if (self.count() > 0 && wraps)
    fail_argument("strides: got ", tuple_text(self.strides, self.ndim), " for shape ",
                  tuple_text(self.shape, self.ndim),
                  ", expected strides that stay inside the address space");
  if (buffer_ == nullptr || self.count() == 0) return;
  const std::optional<Span> held =
      span_of(buffer_->shape, buffer_->strides, buffer_->ndim, 1, buffer_->itemsize);
  if (!held || span->begin < held->begin || span->end > held->end)
    fail_argument("shape: got ", tuple_text(self.shape, self.ndim), " with strides ",
                  tuple_text(self.strides, self.ndim), " of ", dtype_name(dtype_), ", the bytes ",
                  span->begin, " to ", span->end, " from the first element, expected elements ",
                  "inside the buffer, which has the bytes ", held ? held->begin : 0, " to ",
                  held ? held->end : 0);
}

void Array::Release::operator()(Py_buffer* buffer) const noexcept {
  PyBuffer_Release(buffer);
  delete buffer;
}

Array::HeldBuffer Array::hold(nb::handle object) {
  if (!PyObject_CheckBuffer(object.ptr()))
    fail_type("pointer: got ", nb::inst_name(object).c_str(),
              ", expected an address or an object with the buffer protocol");
  auto buffer = std::make_unique<Py_buffer>();
  // Without the format, because some dtypes have none.
  if (PyObject_GetBuffer(object.ptr(), buffer.get(), PyBUF_STRIDED_RO) != 0)
    nb::raise_python_error();
  return HeldBuffer(buffer.release());
}

Array::Array(nb::handle buffer, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
             const std::string& dtype)
    : Array(hold(buffer), std::move(shape), std::move(strides), dtype) {}

Array::Array(HeldBuffer buffer, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
             const std::string& dtype)
    : Array(reinterpret_cast<std::uintptr_t>(buffer->buf), std::move(shape), std::move(strides),
            dtype, "cpu", 0, buffer->readonly != 0, nb::object()) {
  buffer_ = std::move(buffer);
  check_extent();
}

void Array::require_memory_unchanged(const char* name) const {
  if (!buffer_ || buffer_->obj == nullptr) return;
  Py_buffer now;
  if (PyObject_GetBuffer(buffer_->obj, &now, PyBUF_STRIDED_RO) != 0) nb::raise_python_error();
  const bool unchanged = now.buf == buffer_->buf && now.len >= buffer_->len;
  PyBuffer_Release(&now);
  if (!unchanged)
    fail_argument(name,
                  ": its memory was moved or freed after it had been passed, expected an array "
                  "that keeps its memory until the backward pass: do not resize it in place");
}

ArrayView Array::view() const noexcept {
  return {reinterpret_cast<void*>(pointer_),
          shape_.data(),
          strides_.data(),
          static_cast<int>(shape_.size()),
          dtype_,
          device_,
          read_only_};
}

ArrayView view_of(nb::handle object, const char* name) {
  PyTypeObject* type = Py_TYPE(object.ptr());
  const DLPackExchangeAPI* table = exchange_tables.cached(type);
  if (table != nullptr) return view_of_dlpack(object, table, name);
  if (reinterpret_cast<PyObject*>(type) == array_type) {
    const Array* array = nb::inst_ptr<Array>(object);
    array->require_memory_unchanged(name);
    return array->view();
  }
  table = exchange_tables.look_up(type);
  if (table != nullptr) return view_of_dlpack(object, table, name);
  fail_type(
      name, ": got ", nb::inst_name(object).c_str(),
      ", expected a syncnorm._core.Array or an array with __dlpack_c_exchange_api__ (such as a "
      "torch.Tensor)");
}

bool same_dtype(DLDataType a, DLDataType b) noexcept {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

std::string dtype_name(DLDataType dtype) {
  for (const NamedDtype& known : kDtypes)
    if (same_dtype(known.dtype, dtype)) return known.name;
  static constexpr const char* kKinds[] = {"int",    "uint",    "float", "opaque",
                                           "bfloat", "complex", "bool"};
  if (dtype.code < std::size(kKinds)) return concat(kKinds[dtype.code], int{dtype.bits});
  return concat("float", int{dtype.bits}, " (DLPack type code ", int{dtype.code}, ")");
}

std::string device_name(DLDevice device) {
  if (device.device_type == kDLCPU) return "cpu";
  if (device.device_type == kDLCUDA) return concat("cuda:", device.device_id);
  return concat("a device of DLPack type ", static_cast<int>(device.device_type));
}

std::string tuple_text(const std::int64_t* values, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += concat(i == 0 ? "" : ", ", values[i]);
  return text + (count == 1 ? ",)" : ")");
}

void bind_array(nb::module_& module) {
  nb::class_<Array> array(module, "Array", doc::kArray);
  array
      .def(nb::init<std::uintptr_t, std::vector<std::int64_t>, std::vector<std::int64_t>,
                    const std::string&, const std::string&, int, bool, nb::object>(),
           nb::arg("pointer"), nb::arg("shape"), nb::arg("strides_in_elements"), nb::arg("dtype"),
           nb::arg("device") = "cpu", nb::arg("device_index") = 0, nb::kw_only(),
           nb::arg("read_only") = false, nb::arg("owner") = nb::none())
      .def(nb::init<nb::handle, std::vector<std::int64_t>, std::vector<std::int64_t>,
                    const std::string&>(),
           nb::arg("buffer"), nb::arg("shape"), nb::arg("strides_in_elements"), nb::arg("dtype"))
      .def(
          "overlaps",
          [](const Array& self, const Array& other) { return self.view().overlaps(other.view()); },
          nb::arg("other"), doc::kArrayOverlaps)
      .def("__repr__", [](const Array& self) {
        const ArrayView view = self.view();
        return concat("Array(shape=", tuple_text(view.shape, view.ndim),
                      ", strides_in_elements=", tuple_text(view.strides, view.ndim), ", dtype='",
                      dtype_name(view.dtype), "', device='", device_name(view.device), "'",
                      view.read_only ? ", read_only=True)" : ")");
      });
  array_type = array.ptr();
}

}  // namespace syncnorm::bindings
