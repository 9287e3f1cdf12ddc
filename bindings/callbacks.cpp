#include "callbacks.hpp"

#include <cstdint>
#include <exception>
#include <memory>

#include "errors.hpp"

namespace syncnorm::bindings {
namespace {

// A memoryview of float64 values that is taken back from Python when the callback is over.
class LentDoubles {
 public:
  LentDoubles(double* values, std::int64_t count, bool read_only) {
    static double nothing;  // a memoryview must have an address, also of no values
    Py_ssize_t shape = static_cast<Py_ssize_t>(count);
    Py_ssize_t stride = sizeof(double);
    Py_buffer buffer{};
    buffer.buf = count == 0 ? &nothing : values;
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

  // A view that Python still exports (a tensor over it that another thread is about to drop) cannot
  // be taken back; that it is valid during the call only stands in the contract.
  ~LentDoubles() {
    nb::object released = nb::steal(PyObject_CallMethod(view_.ptr(), "release", nullptr));
    if (!released) PyErr_Clear();
  }
  LentDoubles(const LentDoubles&) = delete;
  LentDoubles& operator=(const LentDoubles&) = delete;

  const nb::object& view() const noexcept { return view_; }

 private:
  static inline char kFormat[] = "d";
  nb::object view_;
};

// Runs Python code for a callback; its exception waits for check_status in this thread.
template <class Body>
syncnorm_status guarded(Body&& body) noexcept {
  nb::gil_scoped_acquire acquired;
  try {
    return body();
  } catch (...) {
    keep_callback_exception(std::current_exception());
    return SYNCNORM_INTERNAL;
  }
}

syncnorm_status sum(void* context, const double* src, double* dst, std::int64_t count, void*) {
  return guarded([&] {
    // Held here: the communicator may be closed, or collected, by what the callable does.
    const nb::object callable = static_cast<PythonCallbacks*>(context)->sum;
    const LentDoubles in(const_cast<double*>(src), count, true);
    const LentDoubles out(dst, count, false);
    callable(in.view(), out.view());
    return SYNCNORM_OK;
  });
}

syncnorm_status split(void* context, std::int32_t color, std::int32_t key, void** new_context,
                      std::int32_t* new_rank, std::int32_t* new_size) {
  return guarded([&] {
    auto* own = static_cast<PythonCallbacks*>(context);
    const nb::object callable = own->split;
    const nb::object part = callable(color, key);
    if (part.is_none() != (color < 0))
      fail_argument("split callable: got ", part.is_none() ? "None" : "a group", " for color ",
                    color, ", expected (rank, size, sum, split) for color >= 0 and None for less");
    if (part.is_none()) return SYNCNORM_OK;
    const std::size_t given = nb::len(part);
    if (given != 4 && given != 5)
      fail_argument("split callable: got ", given,
                    " values, expected (rank, size, sum, split[, abort]), where split and abort "
                    "may be None");
    *new_rank = nb::cast<std::int32_t>(part[0]);
    *new_size = nb::cast<std::int32_t>(part[1]);
    auto made = std::make_unique<PythonCallbacks>();
    made->sum = part[2];
    made->split = part[3];
    made->abort = given == 5 ? nb::object(part[4]) : nb::none();
    *new_context = own->new_part = made.release();
    return SYNCNORM_OK;
  });
}

void release(void* context) {
  nb::gil_scoped_acquire acquired;
  delete static_cast<PythonCallbacks*>(context);
}

}  // namespace

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
