#include "phases.hpp"

#include "docstrings.hpp"
#include "errors.hpp"
#include "struct_args.hpp"

namespace syncnorm::bindings {
namespace {

using nb::handle;

void moments(const Options& options, handle x, handle wire, handle mask, handle local_var, handle y,
             handle saved, handle weight, handle bias, handle running_mean, handle running_var,
             handle num_batches_tracked, handle residual, handle workspace, handle control,
             std::int32_t num_threads, std::uintptr_t stream, handle status, std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  syncnorm_forward_args args = forward_args(in, saved, weight, bias, residual);
  args.y = in.optional_like_x(y, "y", Access::kWrite);
  set_running(args, in, running_mean, running_var, num_batches_tracked);
  args.mask = in.mask(mask);
  double* out = in.wire(wire, "wire", in.sizes().wire_length, Access::kWrite);
  double* var = in.optional_doubles(local_var, "local_var", in.shape()->c, Access::kWrite);
  run([&] { return syncnorm_moments(in.shape(), in.options(), &args, out, var, in.launch()); });
}

void center(const Options& options, handle x, std::int64_t group_size, handle wire, handle total,
            handle local_var, handle center_wire, handle workspace, handle control,
            std::int32_t num_threads, std::uintptr_t stream, handle status, std::uint64_t tag) {
  const Arguments in(
      options, x,
      {workspace, control, num_threads, stream, status, tag, /*needs_workspace=*/false});
  const syncnorm_sizes& sizes = in.sizes();
  const double* own = in.wire(wire, "wire", sizes.wire_length, Access::kRead);
  const double* sum = in.wire(total, "total", sizes.wire_length, Access::kRead);
  const double* var = in.doubles(local_var, "local_var", in.shape()->c, Access::kRead);
  double* out = in.wire(center_wire, "center_wire", sizes.center_wire_length, Access::kWrite);
  run([&] {
    return syncnorm_center(in.shape(), in.options(), group_size, own, sum, var, out, in.launch());
  });
}

struct Totals {
  const double* wire;
  const double* total;
  const double* center_total;
};

Totals forward_totals(const Arguments& in, handle wire, handle total, handle center_total) {
  const syncnorm_sizes& sizes = in.sizes();
  return {in.wire(wire, "wire", sizes.wire_length, Access::kRead),
          in.wire(total, "total", sizes.wire_length, Access::kRead),
          in.optional_wire(center_total, "center_total", sizes.center_wire_length, Access::kRead)};
}

void normalize(const Options& options, handle x, std::int64_t group_size, handle wire, handle total,
               handle y, handle center_total, handle saved, handle weight, handle bias,
               handle running_mean, handle running_var, handle num_batches_tracked, handle residual,
               handle workspace, handle control, std::int32_t num_threads, std::uintptr_t stream,
               handle status, std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  const Totals totals = forward_totals(in, wire, total, center_total);
  syncnorm_forward_args args = normalizing(in, y, saved, weight, bias, residual);
  set_running(args, in, running_mean, running_var, num_batches_tracked);
  run([&] {
    return syncnorm_normalize(in.shape(), in.options(), &args, group_size, totals.wire,
                              totals.total, totals.center_total, in.launch());
  });
}

void update_running(const Options& options, handle x, std::int64_t group_size, handle wire,
                    handle total, handle running_mean, handle running_var, handle center_total,
                    handle num_batches_tracked, handle workspace, handle control,
                    std::int32_t num_threads, std::uintptr_t stream, handle status,
                    std::uint64_t tag) {
  const Arguments in(
      options, x,
      {workspace, control, num_threads, stream, status, tag, /*needs_workspace=*/false});
  const Totals totals = forward_totals(in, wire, total, center_total);
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  set_running(args, in, running_mean, running_var, num_batches_tracked);
  run([&] {
    return syncnorm_update_running(in.shape(), in.options(), &args, group_size, totals.wire,
                                   totals.total, totals.center_total, in.launch());
  });
}

void grad_moments(const Options& options, handle x, handle dy, handle saved, handle wire,
                  handle weight, handle bias, handle y, handle dx, handle dresidual, handle dweight,
                  handle dbias, handle mask, handle workspace, handle control,
                  std::int32_t num_threads, std::uintptr_t stream, handle status,
                  std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  syncnorm_backward_args args = differentiating(in, dy, saved, weight, bias, y);
  args.mask = in.mask(mask);
  set_gradients(args, in, dx, dresidual, dweight, dbias);
  double* out = in.wire(wire, "wire", in.sizes().grad_wire_length, Access::kWrite);
  run([&] { return syncnorm_grad_moments(in.shape(), in.options(), &args, out, in.launch()); });
}

void grad_input(const Options& options, handle x, handle dy, handle saved, std::int64_t group_size,
                handle wire, handle total, handle dx, handle dresidual, handle dweight,
                handle dbias, handle weight, handle bias, handle mask, handle y, handle workspace,
                handle control, std::int32_t num_threads, std::uintptr_t stream, handle status,
                std::uint64_t tag) {
  const Arguments in(options, x, {workspace, control, num_threads, stream, status, tag});
  syncnorm_backward_args args = differentiating(in, dy, saved, weight, bias, y);
  args.mask = in.mask(mask);
  set_gradients(args, in, dx, dresidual, dweight, dbias);
  const double* own = in.wire(wire, "wire", in.sizes().grad_wire_length, Access::kRead);
  const double* sum = in.wire(total, "total", in.sizes().grad_wire_length, Access::kRead);
  run([&] {
    return syncnorm_grad_input(in.shape(), in.options(), &args, group_size, own, sum, in.launch());
  });
}

}  // namespace

void bind_phases(nb::module_& m) {
  using nb::arg;
  const nb::kw_only keywords;
  const nb::none none;
  // Accepts None, so that the error for a required array names the argument.
  const auto array = [](const char* name) { return arg(name).none(); };
  m.def("moments", &moments, arg("options"), array("x"), array("wire"), keywords,
        arg("mask") = none, arg("local_var") = none, arg("y") = none, arg("saved") = none,
        arg("weight") = none, arg("bias") = none, arg("running_mean") = none,
        arg("running_var") = none, arg("num_batches_tracked") = none, arg("residual") = none,
        arg("workspace") = none, arg("control") = none, arg("num_threads") = 1, arg("stream") = 0,
        arg("status") = none, arg("tag") = 0, doc::kMoments);
  m.def("center", &center, arg("options"), array("x"), arg("group_size"), array("wire"),
        array("total"), array("local_var"), array("center_wire"), keywords, arg("workspace") = none,
        arg("control") = none, arg("num_threads") = 1, arg("stream") = 0, arg("status") = none,
        arg("tag") = 0, doc::kCenter);
  m.def("normalize", &normalize, arg("options"), array("x"), arg("group_size"), array("wire"),
        array("total"), array("y"), keywords, arg("center_total") = none, arg("saved") = none,
        arg("weight") = none, arg("bias") = none, arg("running_mean") = none,
        arg("running_var") = none, arg("num_batches_tracked") = none, arg("residual") = none,
        arg("workspace") = none, arg("control") = none, arg("num_threads") = 1, arg("stream") = 0,
        arg("status") = none, arg("tag") = 0, doc::kNormalize);
  m.def("update_running", &update_running, arg("options"), array("x"), arg("group_size"),
        array("wire"), array("total"), array("running_mean"), array("running_var"), keywords,
        arg("center_total") = none, arg("num_batches_tracked") = none, arg("workspace") = none,
        arg("control") = none, arg("num_threads") = 1, arg("stream") = 0, arg("status") = none,
        arg("tag") = 0, doc::kUpdateRunning);
  m.def("grad_moments", &grad_moments, arg("options"), array("x"), array("dy"), array("saved"),
        array("wire"), keywords, arg("weight") = none, arg("bias") = none, arg("y") = none,
        arg("dx") = none, arg("dresidual") = none, arg("dweight") = none, arg("dbias") = none,
        arg("mask") = none, arg("workspace") = none, arg("control") = none, arg("num_threads") = 1,
        arg("stream") = 0, arg("status") = none, arg("tag") = 0, doc::kGradMoments);
  m.def("grad_input", &grad_input, arg("options"), array("x"), array("dy"), array("saved"),
        arg("group_size"), array("wire"), array("total"), keywords, arg("dx") = none,
        arg("dresidual") = none, arg("dweight") = none, arg("dbias") = none, arg("weight") = none,
        arg("bias") = none, arg("mask") = none, arg("y") = none, arg("workspace") = none,
        arg("control") = none, arg("num_threads") = 1, arg("stream") = 0, arg("status") = none,
        arg("tag") = 0, doc::kGradInput);
}

}  // namespace syncnorm::bindings
