#include "one_call.hpp"

#include "communicator.hpp"
#include "docstrings.hpp"
#include "errors.hpp"
#include "struct_args.hpp"

namespace syncnorm::bindings {
namespace {

using nb::handle;

void forward(const Options& options, const Communicator* comm, handle x, handle y, handle saved,
             handle mask, handle residual, handle weight, handle bias, handle running_mean,
             handle running_var, handle num_batches_tracked, handle workspace, handle control,
             std::int32_t num_threads, std::uintptr_t stream, handle status, std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  syncnorm_forward_args args = normalizing(in, y, saved, weight, bias, residual);
  args.mask = in.mask(mask);
  set_running(args, in, running_mean, running_var, num_batches_tracked);
  const CommHold hold = comm == nullptr ? nullptr : comm->hold();
  run([&] { return syncnorm_forward(in.shape(), in.options(), &args, get(hold), in.launch()); });
}

void backward(const Options& options, const Communicator* comm, handle x, handle dy, handle saved,
              handle dx, handle dresidual, handle dweight, handle dbias, handle weight, handle bias,
              handle mask, handle y, handle workspace, handle control, std::int32_t num_threads,
              std::uintptr_t stream, handle status, std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  syncnorm_backward_args args = differentiating(in, dy, saved, weight, bias, y);
  args.mask = in.mask(mask);
  set_gradients(args, in, dx, dresidual, dweight, dbias);
  const CommHold hold = comm == nullptr ? nullptr : comm->hold();
  run([&] { return syncnorm_backward(in.shape(), in.options(), &args, get(hold), in.launch()); });
}

void infer(const Options& options, handle x, handle running_mean, handle running_var, handle y,
           handle weight, handle bias, handle residual, handle saved, handle workspace,
           handle control, std::int32_t num_threads, std::uintptr_t stream) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, nb::handle(Py_None), 0});
  syncnorm_forward_args args = normalizing(in, y, saved, weight, bias, residual);
  args.running_mean = in.vector(running_mean, "running_mean", Access::kRead);
  args.running_var = in.vector(running_var, "running_var", Access::kRead);
  run([&] { return syncnorm_infer(in.shape(), in.options(), &args, in.launch()); });
}

void infer_backward(const Options& options, handle x, handle dy, handle saved, handle dx,
                    handle dresidual, handle dweight, handle dbias, handle weight, handle bias,
                    handle y, handle workspace, handle control, std::int32_t num_threads,
                    std::uintptr_t stream) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, nb::handle(Py_None), 0});
  syncnorm_backward_args args = differentiating(in, dy, saved, weight, bias, y);
  set_gradients(args, in, dx, dresidual, dweight, dbias);
  run([&] { return syncnorm_infer_backward(in.shape(), in.options(), &args, in.launch()); });
}

}  // namespace

void bind_one_call(nb::module_& m) {
  using nb::arg;
  const nb::kw_only keywords;
  const nb::none none;
  // Accepts None, so that the error for a required array names the argument.
  const auto array = [](const char* name) { return arg(name).none(); };
  m.def("forward", &forward, arg("options"), arg("comm").none(), array("x"), array("y"), keywords,
        arg("saved") = none, arg("mask") = none, arg("residual") = none, arg("weight") = none,
        arg("bias") = none, arg("running_mean") = none, arg("running_var") = none,
        arg("num_batches_tracked") = none, arg("workspace") = none, arg("control") = none,
        arg("num_threads") = 1, arg("stream") = 0, arg("status") = none, arg("tag") = 0,
        doc::kForward);
  m.def("backward", &backward, arg("options"), arg("comm").none(), array("x"), array("dy"),
        array("saved"), keywords, arg("dx") = none, arg("dresidual") = none, arg("dweight") = none,
        arg("dbias") = none, arg("weight") = none, arg("bias") = none, arg("mask") = none,
        arg("y") = none, arg("workspace") = none, arg("control") = none, arg("num_threads") = 1,
        arg("stream") = 0, arg("status") = none, arg("tag") = 0, doc::kBackward);
  m.def("infer", &infer, arg("options"), array("x"), array("running_mean"), array("running_var"),
        array("y"), keywords, arg("weight") = none, arg("bias") = none, arg("residual") = none,
        arg("saved") = none, arg("workspace") = none, arg("control") = none, arg("num_threads") = 1,
        arg("stream") = 0, doc::kInfer);
  m.def("infer_backward", &infer_backward, arg("options"), array("x"), array("dy"), array("saved"),
        keywords, arg("dx") = none, arg("dresidual") = none, arg("dweight") = none,
        arg("dbias") = none, arg("weight") = none, arg("bias") = none, arg("y") = none,
        arg("workspace") = none, arg("control") = none, arg("num_threads") = 1, arg("stream") = 0,
        doc::kInferBackward);
}

}  // namespace syncnorm::bindings
