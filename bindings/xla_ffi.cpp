#include "xla_ffi.hpp"

#include <nanobind/stl/string.h>

#include "docstrings.hpp"
#include "errors.hpp"
#include "xla_ffi_call.hpp"

namespace syncnorm::bindings {
namespace xla {
namespace {

// ------------------------------------------------------------------------------------ the phases

syncnorm_status moments(const Frame& frame) {
  const Call in(frame);
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.x = in.x();
  args.mask = in.mask();
  return syncnorm_moments(in.shape(), in.options(), &args,
                          in.doubles("wire", in.sizes().wire_length),
                          in.doubles("local_var", in.shape()->c), in.launch());
}

syncnorm_status center(const Frame& frame) {
  const Call in(frame);
  const syncnorm_sizes& sizes = in.sizes();
  return syncnorm_center(
      in.shape(), in.options(), in.group_size(), in.doubles("wire", sizes.wire_length),
      in.doubles("total", sizes.wire_length), in.doubles("local_var", in.shape()->c),
      in.doubles("center_wire", sizes.center_wire_length), in.launch());
}

// The signature of syncnorm_normalize and syncnorm_update_running.
using WithTotals = syncnorm_status(const syncnorm_shape*, const syncnorm_options*,
                                   const syncnorm_forward_args*, std::int64_t, const double*,
                                   const double*, const double*, const syncnorm_launch*);

syncnorm_status call_with_totals(WithTotals* function, const Call& in,
                                 const syncnorm_forward_args& args) {
  const syncnorm_sizes& sizes = in.sizes();
  return function(in.shape(), in.options(), &args, in.group_size(),
                  in.doubles("wire", sizes.wire_length), in.doubles("total", sizes.wire_length),
                  in.doubles("center_total", sizes.center_wire_length), in.launch());
}

syncnorm_forward_args normalizing(const Call& in) {
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.x = in.x();
  args.residual = in.like_x("residual");
  args.weight = in.vector("weight");
  args.bias = in.vector("bias");
  args.y = in.like_x("y");
  args.saved = in.doubles("saved", in.sizes().saved_length);
  return args;
}

syncnorm_status normalize(const Frame& frame) {
  const Call in(frame);
  return call_with_totals(syncnorm_normalize, in, normalizing(in));
}

// The running statistics are operands and results. XLA copies them first if the old values are
// still in use.
syncnorm_status update_running(const Frame& frame) {
  const Call in(frame);
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.running_mean = in.vector("running_mean");
  args.running_var = in.vector("running_var");
  args.num_batches_tracked = in.counter("num_batches_tracked");
  return call_with_totals(syncnorm_update_running, in, args);
}

syncnorm_backward_args differentiating(const Call& in) {
  syncnorm_backward_args args = SYNCNORM_BACKWARD_ARGS_INIT;
  args.x = in.x();
  args.dy = in.like_x("dy");
  args.y = in.like_x("y");
  args.mask = in.mask();
  args.weight = in.vector("weight");
  args.bias = in.vector("bias");
  args.saved = in.doubles("saved", in.sizes().saved_length);
  args.dx = in.like_x("dx");
  args.dresidual = in.like_x("dresidual");
  args.dweight = in.vector("dweight");
  args.dbias = in.vector("dbias");
  return args;
}

syncnorm_status grad_moments(const Frame& frame) {
  const Call in(frame);
  const syncnorm_backward_args args = differentiating(in);
  return syncnorm_grad_moments(in.shape(), in.options(), &args,
                               in.doubles("wire", in.sizes().grad_wire_length), in.launch());
}

syncnorm_status grad_input(const Frame& frame) {
  const Call in(frame);
  const syncnorm_backward_args args = differentiating(in);
  return syncnorm_grad_input(in.shape(), in.options(), &args, in.group_size(),
                             in.doubles("wire", in.sizes().grad_wire_length),
                             in.doubles("total", in.sizes().grad_wire_length), in.launch());
}

syncnorm_status infer(const Frame& frame) {
  const Call in(frame);
  syncnorm_forward_args args = normalizing(in);
  args.running_mean = in.vector("running_mean");
  args.running_var = in.vector("running_var");
  return syncnorm_infer(in.shape(), in.options(), &args, in.launch());
}

syncnorm_status infer_backward(const Frame& frame) {
  const Call in(frame);
  const syncnorm_backward_args args = differentiating(in);
  return syncnorm_infer_backward(in.shape(), in.options(), &args, in.launch());
}

// Sums gathered wires, [rank][value], in rank order. JAX without float64 needs it in place of psum.
syncnorm_status add_up(const Frame& frame) {
  const XLA_FFI_Buffer& gathered = frame.at("gathered");
  const XLA_FFI_Buffer& sum = frame.at("total");
  const std::int64_t ranks = gathered.rank > 0 ? gathered.dims[0] : 0;
  const std::int64_t length = doubles_in(sum);
  std::int64_t values = 0;
  if (__builtin_mul_overflow(ranks, length, &values))
    throw Failure(XLA_FFI_Error_Code_INVALID_ARGUMENT,
                  concat("gathered: got ", ranks, " wires of ", length,
                         " values, expected a number of values that fits 63 bits"));
  const syncnorm_launch launch = launch_of(frame);
  return syncnorm_add_wires(as_doubles(gathered, "gathered", values), ranks, length,
                            as_doubles(sum, "total", length), &launch);
}

// ---------------------------------------------------------------------------------- the handlers

// On registration XLA queries the interface version of every handler.
bool answer_metadata(const XLA_FFI_CallFrame& frame) {
  XLA_FFI_Extension_Base* extension = frame.extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

XLA_FFI_Error* error(const XLA_FFI_Api& api, XLA_FFI_Error_Code code, const std::string& message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message.c_str(),
                                 code};
  return api.XLA_FFI_Error_Create(&args);
}

using Phase = syncnorm_status(const Frame&);

template <Phase phase, syncnorm_device device>
XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) noexcept {
  if (answer_metadata(*frame)) return nullptr;
  try {
    check(phase(Frame(*frame, device)));
    return nullptr;
  } catch (const Failure& failure) {
    return error(*frame->api, failure.code(), concat("syncnorm: ", failure.what()));
  } catch (const std::exception& exception) {
    return error(*frame->api, XLA_FFI_Error_Code_INTERNAL, concat("syncnorm: ", exception.what()));
  }
}

struct NamedHandler {
  const char* name;
  XLA_FFI_Handler* cpu;
  XLA_FFI_Handler* cuda;
};

template <Phase phase>
constexpr NamedHandler named(const char* name) {
  return {name, handler<phase, SYNCNORM_CPU>, handler<phase, SYNCNORM_CUDA>};
}

constexpr NamedHandler kHandlers[] = {
    named<moments>("moments"),
    named<center>("center"),
    named<normalize>("normalize"),
    named<update_running>("update_running"),
    named<grad_moments>("grad_moments"),
    named<grad_input>("grad_input"),
    named<infer>("infer"),
    named<infer_backward>("infer_backward"),
    named<add_up>("add_up"),
};

nb::dict handlers(const std::string& device) {
  if (device != "cpu" && device != "cuda")
    fail_argument("device: got '", device, "', expected 'cpu' or 'cuda'");
  nb::dict capsules;
  for (const NamedHandler& each : kHandlers)
    capsules[each.name] =
        nb::capsule(reinterpret_cast<void*>(device == "cpu" ? each.cpu : each.cuda));
  return capsules;
}

}  // namespace
}  // namespace xla

void bind_xla_ffi(nb::module_& module) {
  module.def("xla_ffi_handlers", &xla::handlers, nb::arg("device"),
             nb::sig("def xla_ffi_handlers(device: str) -> dict[str, object]"),
             doc::kXlaFfiHandlers);
}

}  // namespace syncnorm::bindings
