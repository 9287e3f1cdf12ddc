#include "errors.hpp"

#include <array>
#include <utility>

namespace syncnorm::bindings {
namespace {

// Indexed by syncnorm_status. The references are held for the life of the process: an exception may
// be raised until the interpreter is gone.
std::array<PyObject*, SYNCNORM_INTERNAL + 1> classes{};

thread_local std::exception_ptr callback_exception;

PyObject* make_class(nb::module_& module, const char* name, nb::tuple bases, const char* doc) {
  const std::string qualified = std::string("syncnorm.") + name;
  PyObject* made = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
  if (made == nullptr) nb::raise_python_error();
  module.attr(name) = nb::borrow(made);
  return made;
}

}  // namespace

void bind_errors(nb::module_& module) {
  PyObject* error = make_class(module, "Error", nb::make_tuple(nb::borrow(PyExc_RuntimeError)),
                               "Base of every error that syncnorm reports.");
  const auto add = [&](syncnorm_status status, const char* name, PyObject* builtin,
                       const char* doc) {
    nb::tuple bases = builtin == nullptr ? nb::make_tuple(nb::borrow(error))
                                         : nb::make_tuple(nb::borrow(error), nb::borrow(builtin));
    classes[status] = make_class(module, name, bases, doc);
  };
  add(SYNCNORM_INVALID_ARGUMENT, "InvalidArgumentError", PyExc_ValueError,
      "A value, shape, dtype or device that can never be right. Nothing was written.");
  add(SYNCNORM_UNSUPPORTED, "UnsupportedError", PyExc_NotImplementedError,
      "Right, but not offered by this build, device or communicator. Nothing was written.");
  add(SYNCNORM_CUDA_ERROR, "CudaError", nullptr, "The CUDA runtime reported an error.");
  add(SYNCNORM_NCCL_ERROR, "NcclError", nullptr, "NCCL reported an error.");
  add(SYNCNORM_DESYNC, "DesyncError", nullptr, "The ranks of a group are in different calls.");
  add(SYNCNORM_TIMEOUT, "CommunicatorTimeoutError", PyExc_TimeoutError,
      "A rank did not come before the deadline; the message names the missing ones.");
  add(SYNCNORM_OUT_OF_MEMORY, "OutOfMemoryError", PyExc_MemoryError,
      "Host memory for a handle could not be had.");
  add(SYNCNORM_INTERNAL, "InternalError", nullptr,
      "A defect of this library, an aborted communicator, or a failed user callback.");
}

void raise(syncnorm_status status, const std::string& message) {
  const bool known = status > SYNCNORM_OK && status <= SYNCNORM_INTERNAL;
  PyErr_SetString(classes[known ? status : SYNCNORM_INTERNAL], message.c_str());
  throw nb::python_error();
}

void check_status(syncnorm_status status) {
  std::exception_ptr kept = std::exchange(callback_exception, nullptr);
  if (status == SYNCNORM_OK) return;
  if (kept) std::rethrow_exception(std::move(kept));
  raise(status, syncnorm_last_error());
}

void keep_callback_exception(std::exception_ptr exception) noexcept {
  callback_exception = std::move(exception);
}

}  // namespace syncnorm::bindings
