#include "errors.hpp"

#include <array>
#include <utility>

namespace syncnorm::bindings {
namespace {

// Indexed by syncnorm_status. The references are never released: an exception may be raised until
// the interpreter ends.
std::array<PyObject*, SYNCNORM_RANK_LOST + 1> classes{};
PyObject*& class_of(syncnorm_status status) { return classes[static_cast<std::size_t>(status)]; }
PyObject* argument_type_error = nullptr;

thread_local std::exception_ptr kept_exception;

PyObject* make_class(nb::module_& module, const char* name, nb::tuple bases, const char* doc) {
  const std::string qualified = std::string("syncnorm.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
  if (type == nullptr) nb::raise_python_error();
  module.attr(name) = nb::borrow(type);
  return type;
}

}  // namespace

void bind_errors(nb::module_& module) {
  PyObject* error = make_class(module, "Error", nb::make_tuple(nb::borrow(PyExc_RuntimeError)),
                               "Base class of all errors of syncnorm.");
  const auto add = [&](syncnorm_status status, const char* name, PyObject* builtin,
                       const char* doc) {
    nb::tuple bases = builtin == nullptr ? nb::make_tuple(nb::borrow(error))
                                         : nb::make_tuple(nb::borrow(error), nb::borrow(builtin));
    class_of(status) = make_class(module, name, bases, doc);
  };
  add(SYNCNORM_INVALID_ARGUMENT, "InvalidArgumentError", PyExc_ValueError,
      "An argument has a wrong value, shape, dtype or device. Nothing was written.");
  argument_type_error = make_class(
      module, "ArgumentTypeError",
      nb::make_tuple(nb::borrow(class_of(SYNCNORM_INVALID_ARGUMENT)), nb::borrow(PyExc_TypeError)),
      "An argument has the wrong type. Nothing was written.");
  add(SYNCNORM_UNSUPPORTED, "UnsupportedError", PyExc_NotImplementedError,
      "This build, device or communicator does not support the call. Nothing was written.");
  add(SYNCNORM_CUDA_ERROR, "CudaError", nullptr, "The CUDA runtime reported an error.");
  add(SYNCNORM_NCCL_ERROR, "NcclError", nullptr, "NCCL reported an error.");
  add(SYNCNORM_DESYNC, "DesyncError", nullptr, "The ranks of a group are in different calls.");
  add(SYNCNORM_TIMEOUT, "CommunicatorTimeoutError", PyExc_TimeoutError,
      "A rank did not make a call before the deadline; the message names the missing ranks.");
  add(SYNCNORM_OUT_OF_MEMORY, "OutOfMemoryError", PyExc_MemoryError,
      "Host memory could not be allocated.");
  add(SYNCNORM_INTERNAL, "InternalError", nullptr,
      "A communicator was aborted, a user callback failed, or syncnorm has a bug.");
  add(SYNCNORM_RANK_LOST, "RankLostError", PyExc_ConnectionError,
      "A rank of the group has ended or left it.");
}

void raise(syncnorm_status status, const std::string& message) {
  const bool known = status > SYNCNORM_OK && status <= SYNCNORM_RANK_LOST;
  PyErr_SetString(class_of(known ? status : SYNCNORM_INTERNAL), message.c_str());
  throw nb::python_error();
}

void raise_type(const std::string& message) {
  PyErr_SetString(argument_type_error, message.c_str());
  throw nb::python_error();
}

void check_status(syncnorm_status status) {
  std::exception_ptr exception = std::exchange(kept_exception, nullptr);
  if (exception) std::rethrow_exception(std::move(exception));
  if (status != SYNCNORM_OK) raise(status, syncnorm_last_error());
}

void keep_exception(std::exception_ptr exception) noexcept {
  kept_exception = std::move(exception);
}

}  // namespace syncnorm::bindings
