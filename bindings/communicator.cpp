#include "communicator.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "array_checks.hpp"
#include "callbacks.hpp"
#include "docstrings_communicator.hpp"
#include "errors.hpp"

namespace syncnorm::bindings {

class CommHandle {
 public:
  CommHandle(syncnorm_comm* comm, PythonCallbacks* callbacks)
      : comm_(comm), callbacks_(callbacks) {}
  // Destroying a handle may wait for other threads, which may need the GIL.
  ~CommHandle() {
    const ReleasedGil released;
    syncnorm_comm_destroy(comm_);
  }
  CommHandle(const CommHandle&) = delete;
  CommHandle& operator=(const CommHandle&) = delete;

  syncnorm_comm* comm() const noexcept { return comm_; }
  PythonCallbacks* callbacks() const noexcept { return callbacks_; }

 private:
  syncnorm_comm* comm_;
  PythonCallbacks* callbacks_;  // owned by comm_; nullptr without Python callbacks
};

syncnorm_comm* get(const CommHold& hold) noexcept { return hold ? hold->comm() : nullptr; }

Communicator::Communicator(CommHold handle) : handle_(std::move(handle)), process_(getpid()) {
  info_.struct_size = sizeof(info_);
  check_status(syncnorm_comm_query(get(handle_), &info_));
}

CommHold Communicator::hold() const {
  if (closed())
    fail_argument("communicator: rank ", info_.rank, " of ", info_.size,
                  " was closed, expected an open one: close it after its last use");
  return handle_;
}

bool Communicator::of_this_process() const noexcept { return process_ == getpid(); }

int Communicator::traverse(visitproc visit, void* arg) const {
  if (handle_ == nullptr || handle_->callbacks() == nullptr) return 0;
  Py_VISIT(handle_->callbacks()->sum.ptr());
  Py_VISIT(handle_->callbacks()->split.ptr());
  Py_VISIT(handle_->callbacks()->abort.ptr());
  return 0;
}

void Communicator::clear() noexcept { close(); }

Communicator adopt(syncnorm_comm* comm) {
  return Communicator(std::make_shared<CommHandle>(comm, nullptr));
}

std::vector<Communicator> adopt(const std::vector<syncnorm_comm*>& comms) {
  std::vector<Communicator> group;
  group.reserve(comms.size());
  for (syncnorm_comm* comm : comms) group.push_back(adopt(comm));
  return group;
}

namespace {

void sum(const Communicator& self, nb::handle src, nb::handle dst, std::uintptr_t stream) {
  const ArrayView in = contiguous_float64(src, "src", Access::kRead);
  const ArrayView out = contiguous_float64(dst, "dst", Access::kWrite);
  if (in.count() != out.count())
    fail_argument("dst: got ", out.count(), " values, expected ", in.count(),
                  ", the length of src");
  if (!same_device(in.device, out.device))
    fail_argument("dst: is on ", device_name(out.device), ", expected ", device_name(in.device),
                  " where src is");
  const syncnorm_device device = require_device(in.device, "src");
  const CommHold hold = self.hold();
  run([&] {
    return syncnorm_comm_sum(get(hold), static_cast<const double*>(in.data),
                             static_cast<double*>(out.data), in.count(), device,
                             reinterpret_cast<void*>(stream));
  });
}

nb::object split(const Communicator& self, std::int32_t color, std::int32_t key) {
  const CommHold hold = self.hold();
  PythonCallbacks* parent = hold->callbacks();
  if (parent != nullptr && parent->split.is_none())
    raise(SYNCNORM_UNSUPPORTED,
          "this callback communicator cannot be split: it was created without a split callable");
  syncnorm_comm* part = nullptr;
  run([&] { return syncnorm_comm_split(get(hold), color, key, &part); });
  if (part == nullptr) return nb::none();
  PythonCallbacks* callbacks =
      parent == nullptr ? nullptr : std::exchange(parent->new_part, nullptr);
  return nb::cast(Communicator(std::make_shared<CommHandle>(part, callbacks)));
}

void poll(const Communicator& self) {
  const CommHold hold = self.hold();
  run([&] { return syncnorm_comm_poll(get(hold)); });
}

void wait(const Communicator& self, std::uintptr_t stream, double timeout) {
  const CommHold hold = self.hold();
  run([&] { return syncnorm_comm_wait(get(hold), reinterpret_cast<void*>(stream), timeout); });
}

void abort(const Communicator& self, const std::string& reason) {
  const CommHold hold = self.hold();
  run([&] { return syncnorm_comm_abort(get(hold), reason.c_str()); });
  const PythonCallbacks* callbacks = hold->callbacks();
  if (callbacks == nullptr || callbacks->abort.is_none()) return;
  const nb::object callable = callbacks->abort;
  call_python(callable, nb::str(reason.c_str()));
}

// Returns "KeyError: 'gone'". The str() of an exception may raise.
std::string exception_text(nb::handle type, nb::handle value) {
  std::string text = nb::cast<std::string>(type.attr("__name__"));
  nb::object message = nb::steal(PyObject_Str(value.ptr()));
  if (!message) PyErr_Clear();
  if (message && nb::len(message) > 0) text += concat(": ", nb::cast<std::string>(message));
  return text;
}

// After an exception this rank will not make the calls that the other ranks wait for.
void exit_context(Communicator& self, nb::handle type, nb::handle value, nb::handle) {
  const struct CloseGuard {  // closes also if the abort callable raises
    Communicator& comm;
    ~CloseGuard() { comm.close(); }
  } guard{self};
  if (!type.is_none() && !self.closed() && self.of_this_process())
    abort(self, concat("rank ", self.info().rank, " left its with-block with ",
                       exception_text(type, value)));
}

nb::tuple device_memory(const Communicator& self) {
  nb::list names;
  if (self.info().device_memory & 1 << SYNCNORM_CPU) names.append("cpu");
  if (self.info().device_memory & 1 << SYNCNORM_CUDA) names.append("cuda");
  return nb::tuple(names);
}

std::string repr(const Communicator& self) {
  return concat("Communicator(kind='", self.info().kind, "', rank=", self.info().rank,
                ", size=", self.info().size, self.closed() ? ", closed)" : ")");
}

std::vector<Communicator> thread_group(std::int32_t n, double timeout) {
  std::vector<syncnorm_comm*> comms(static_cast<std::size_t>(std::max(n, 1)), nullptr);
  check_status(syncnorm_comm_create_threads(n, timeout, comms.data()));
  return adopt(comms);
}

Communicator callback_communicator(std::int32_t rank, std::int32_t size, nb::handle sum,
                                   nb::handle split, nb::handle abort) {
  auto context = std::make_unique<PythonCallbacks>();
  context->sum = require_callable(sum, "sum");
  context->split = optional_callable(split, "split");
  context->abort = optional_callable(abort, "abort");
  const syncnorm_callbacks callbacks = python_callbacks(context.get());
  syncnorm_comm* comm = nullptr;
  check_status(syncnorm_comm_create_callback(rank, size, &callbacks, &comm));
  return Communicator(std::make_shared<CommHandle>(comm, context.release()));
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  return nb::inst_ptr<Communicator>(self)->traverse(visit, arg);
}

int clear(PyObject* self) {
  nb::inst_ptr<Communicator>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
                       {Py_tp_clear, reinterpret_cast<void*>(&clear)},
                       {0, nullptr}};

void bind_class(nb::module_& module) {
  nb::class_<Communicator>(module, "Communicator", nb::type_slots(slots),
                           nb::is_weak_referenceable(), doc::kCommunicator)
      .def_prop_ro(
          "rank", [](const Communicator& self) { return self.info().rank; },
          "Rank of this communicator, from 0.")
      .def_prop_ro(
          "size", [](const Communicator& self) { return self.info().size; },
          "Number of ranks in the group.")
      .def_prop_ro(
          "kind", [](const Communicator& self) { return self.info().kind; },
          "'threads', 'callback' or 'nccl'.")
      .def_prop_ro("device_memory", &device_memory,
                   nb::for_getter(nb::sig("def device_memory(self) -> tuple[str, ...]")),
                   "Devices of the arrays that it sums: 'cpu', 'cuda'.")
      .def_prop_ro("closed", &Communicator::closed, "Whether close() was called.")
      .def("sum", &sum, nb::arg("src"), nb::arg("dst"), nb::kw_only(), nb::arg("stream") = 0,
           doc::kCommSum)
      .def("split", &split, nb::arg("color"), nb::arg("key") = 0,
           nb::sig("def split(self, color: int, key: int = 0) -> Communicator | None"),
           doc::kCommSplit)
      .def("poll", &poll, doc::kCommPoll)
      .def("wait", &wait, nb::arg("stream") = 0, nb::arg("timeout") = 600.0, doc::kCommWait)
      .def("abort", &abort, nb::arg("reason"), doc::kCommAbort)
      .def("close", &Communicator::close, doc::kCommClose)
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); },
          nb::sig("def __enter__(self) -> Communicator"))
      .def("__exit__", &exit_context, nb::arg("type").none(), nb::arg("value").none(),
           nb::arg("traceback").none(),
           nb::sig("def __exit__(self, type: type[BaseException] | None, "
                   "value: BaseException | None, traceback: object) -> None"))
      .def("__repr__", &repr);
}

}  // namespace

void bind_communicator(nb::module_& module) {
  static constexpr const char* kSignature =
      "def callback_communicator(rank: int, size: int, "
      "sum: collections.abc.Callable[[memoryview, memoryview], object], "
      "split: collections.abc.Callable[[int, int], tuple[typing.Any, ...] | None] | None = None, "
      "abort: collections.abc.Callable[[str], object] | None = None) -> Communicator";
  bind_class(module);
  module.def("thread_group", &thread_group, nb::arg("n"), nb::arg("timeout") = 60.0,
             doc::kThreadGroup);
  module.def("callback_communicator", &callback_communicator, nb::arg("rank"), nb::arg("size"),
             nb::arg("sum").none(), nb::arg("split").none() = nb::none(),
             nb::arg("abort").none() = nb::none(), nb::sig(kSignature), doc::kCallbackCommunicator);
}

}  // namespace syncnorm::bindings
