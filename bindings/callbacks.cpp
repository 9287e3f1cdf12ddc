#include "callbacks.hpp"

#include <cstdint>
#include <exception>
#include <memory>

#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

// A memoryview of float64 values that is released at the end of the callback.
class ScopedView {
 public:
  ScopedView(double* values, std::int64_t count, bool read_only) {
    static double empty;  // a memoryview needs an address even without values
    Py_ssize_t shape = static_cast<Py_ssize_t>(count);
    Py_ssize_t stride = sizeof(double);
    Py_buffer buffer{};
    buffer.buf = count == 0 ? &empty : values;
    buffer.len = shape * stride;
    buffer.itemsize = stride;
    buffer.readonly = read_only;
    buffer.ndim = 1;
    buffer.format = kFormat;
    buffer.shape = &shape;
    buffer.strides = &stride;
    view_ = nb::steal(PyMemoryView_FromBuffer(&buffer));
    if (!view_) nb::raise_python_error();
  }

  // release() fails while another object, such as a tensor, still exports the view. The callable
  // must not use such an object after the call.
  ~ScopedView() {
    nb::object released = nb::steal(PyObject_CallMethod(view_.ptr(), "release", nullptr));
    if (!released) PyErr_Clear();
  }
  ScopedView(const ScopedView&) = delete;
  ScopedView& operator=(const ScopedView&) = delete;

  const nb::object& view() const noexcept { return view_; }

 private:
  static inline char kFormat[] = "d";
  nb::object view_;
};

// Runs Python code for a callback. Keeps its exception for check_status in this thread.
template <class Body>
syncnorm_status guarded(Body&& body) noexcept {
  const AcquiredGil acquired;
  try {
    return body();
  } catch (...) {
    keep_exception(std::current_exception());
    return SYNCNORM_INTERNAL;
  }
}

std::int32_t require_int(nb::handle object, const char* name) {
  std::int32_t value = 0;
  if (!nb::try_cast(object, value))
    fail_type(name, ": got ", nb::inst_name(object).c_str(), ", expected an int");
  return value;
}

syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count, void*) {
  return guarded([&] {
    // The callable may close the communicator, or drop its last reference.
    const nb::object callable = static_cast<PythonCallbacks*>(context)->sum;
    const ScopedView in(const_cast<double*>(src), count, true);
    const ScopedView out(dst, count, false);
    call_python(callable, in.view(), out.view());
    return SYNCNORM_OK;
  });
}

syncnorm_status split(void* context, std::int32_t color, std::int32_t key, void** new_context,
                      std::int32_t* new_rank, std::int32_t* new_size) {
  return guarded([&] {
    auto* callbacks = static_cast<PythonCallbacks*>(context);
    const nb::object callable = callbacks->split;
    const nb::object part = call_python(callable, nb::int_(color), nb::int_(key));
    if (part.is_none() != (color < 0))
      fail_argument("split callable: got ", part.is_none() ? "None" : "a group", " for color ",
                    color, ", expected (rank, size, sum, split) for color >= 0 and None for less");
    if (part.is_none()) return SYNCNORM_OK;
    if (!PySequence_Check(part.ptr()))
      fail_type("split callable: got ", nb::inst_name(part).c_str(),
                ", expected (rank, size, sum, split[, abort])");
    const std::size_t count = nb::len(part);
    if (count != 4 && count != 5)
      fail_argument("split callable: got ", count,
                    " values, expected (rank, size, sum, split[, abort]), where split and abort "
                    "may be None");
    *new_rank = require_int(part[0], "split callable: rank");
    *new_size = require_int(part[1], "split callable: size");
    auto part_callbacks = std::make_unique<PythonCallbacks>();
    part_callbacks->sum = require_callable(part[2], "split callable: sum");
    part_callbacks->split = optional_callable(part[3], "split callable: split");
    if (count == 5) part_callbacks->abort = optional_callable(part[4], "split callable: abort");
    *new_context = callbacks->new_part = part_callbacks.release();
    return SYNCNORM_OK;
  });
}

void release(void* context) {
  const AcquiredGil acquired;
  delete static_cast<PythonCallbacks*>(context);
}

}  // namespace

nb::object require_callable(nb::handle object, const char* name) {
  if (!PyCallable_Check(object.ptr()))
    fail_type(name, ": got ", nb::inst_name(object).c_str(), ", expected a callable");
  return nb::borrow(object);
}

nb::object optional_callable(nb::handle object, const char* name) {
  return object.is_none() ? nb::none() : require_callable(object, name);
}

syncnorm_callbacks python_callbacks(PythonCallbacks* context) noexcept {
  syncnorm_callbacks callbacks{};
  callbacks.struct_size = sizeof(callbacks);
  callbacks.context = context;
  callbacks.sum = &sum;
  callbacks.split = &split;
  callbacks.release = &release;
  return callbacks;
}

}  // namespace syncnorm::bindings
