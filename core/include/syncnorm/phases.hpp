// Part of syncnorm.hpp: the phases and the calls that join them. Each is the C function of its
// name.
#ifndef SYNCNORM_PHASES_HPP_
#define SYNCNORM_PHASES_HPP_

#include <string>

#include "communicator.hpp"
#include "types.hpp"

namespace syncnorm {
inline namespace SYNCNORM_INLINE_NAMESPACE {

// See syncnorm_forward_args. x and y are needed; all tensors share x's shape.
struct ForwardArgs {
  ConstTensorView x;
  TensorView y;  // absent in moments and update_running
  ConstTensorView residual;
  const std::uint8_t* mask = nullptr;
  ConstVector weight;
  ConstVector bias;
  Vector running_mean;
  Vector running_var;
  std::int64_t* num_batches_tracked = nullptr;
  Span<double> saved;
};

// See syncnorm_backward_args.
struct BackwardArgs {
  ConstTensorView x;  // with Options::in_place the forward's y
  ConstTensorView dy;
  Span<const double> saved;
  ConstTensorView y;  // where the forward had a residual and an activation
  const std::uint8_t* mask = nullptr;
  ConstVector weight;
  ConstVector bias;
  TensorView dx;
  TensorView dresidual;
  Vector dweight;
  Vector dbias;
};

// Lengths in float64 values, workspace in bytes.
struct Sizes {
  std::size_t wire = 0;
  std::size_t center_wire = 0;  // 0 where centring is off
  std::size_t grad_wire = 0;
  std::size_t saved = 0;
  std::size_t workspace = 0;
};

inline Sizes query_sizes(const Shape& shape, const Options& options,
                         syncnorm_device device = SYNCNORM_CPU, OnError on_error = {}) {
  const syncnorm_shape c_shape = shape.c_struct();
  const syncnorm_options c_options = options.c_struct();
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  on_error.check(syncnorm_query_sizes(&c_shape, &c_options, device, &sizes));
  const auto length = [](std::int64_t values) { return static_cast<std::size_t>(values); };
  return {length(sizes.wire_length), length(sizes.center_wire_length),
          length(sizes.grad_wire_length), length(sizes.saved_length), sizes.workspace_size};
}

namespace detail {

// The arguments of one call as C structs. Where views do not fit together, or a struct is refused,
// on_error has failed, and the library is not to be called.
class Call {
 public:
  Call(const Options& how, const ForwardArgs& args, const Launch& where, OnError error)
      : Call(how, args.x.shape(), where, error) {
    check_shape("y", args.y);
    check_shape("residual", args.residual);
    if (args.saved.size() != 0) check_length("saved", args.saved, sizes.saved);
    forward = {sizeof(forward),
               args.x.data(),
               args.residual.data(),
               args.mask,
               args.weight.c_struct(),
               args.bias.c_struct(),
               args.running_mean.c_struct(),
               args.running_var.c_struct(),
               args.num_batches_tracked,
               args.y.data(),
               args.saved.data()};
  }
  Call(const Options& how, const BackwardArgs& args, const Launch& where, OnError error)
      : Call(how, args.x.shape(), where, error) {
    check_shape("dy", args.dy);
    check_shape("y", args.y);
    check_shape("dx", args.dx);
    check_shape("dresidual", args.dresidual);
    check_length("saved", args.saved, sizes.saved);
    backward = {
        sizeof(backward), args.x.data(),          args.dy.data(),          args.y.data(),
        args.mask,        args.weight.c_struct(), args.bias.c_struct(),    args.saved.data(),
        args.dx.data(),   args.dresidual.data(),  args.dweight.c_struct(), args.dbias.c_struct()};
  }
  Call(const Options& how, const Shape& x, const Launch& where, OnError error)
      : on_error(error),
        sizes(query_sizes(x, how, where.c_struct().device, error)),
        x_shape(x),
        shape(x.c_struct()),
        options(how.c_struct()),
        launch(where.c_struct()) {}

  bool good() const noexcept { return on_error.good(); }

  void check_length(const char* name, Span<const double> values, std::size_t expected) const {
    if (values.size() == expected) return;
    refuse(name, " has " + std::to_string(values.size()) + " values, expected " +
                     std::to_string(expected) + ": see query_sizes");
  }
  void check_totals(Span<const double> wire, Span<const double> total,
                    Span<const double> center_total) const {
    check_length("wire", wire, sizes.wire);
    check_length("total", total, sizes.wire);
    check_length("center_total", center_total, sizes.center_wire);
  }

  OnError on_error;
  Sizes sizes;
  Shape x_shape;
  syncnorm_shape shape;
  syncnorm_options options;
  syncnorm_launch launch;
  syncnorm_forward_args forward = SYNCNORM_FORWARD_ARGS_INIT;
  syncnorm_backward_args backward = SYNCNORM_BACKWARD_ARGS_INIT;

 private:
  template <class Tensor>
  void check_shape(const char* name, const Tensor& tensor) const {
    if (!tensor.present() || tensor.shape() == x_shape) return;
    refuse(name, " differs from x in n, c, s, dtype or layout, expected the same");
  }
  void refuse(const char* name, const std::string& why) const {
    on_error.fail(SYNCNORM_INVALID_ARGUMENT, name + why);
  }
};

}  // namespace detail

// ------------------------------------------------------------------------------ forward, in phases

// local_var, [C]: needed where center follows, else left out.
inline void moments(const Options& options, const ForwardArgs& args, Span<double> wire,
                    const Launch& launch, Span<double> local_var = {}, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  call.check_length("wire", wire, call.sizes.wire);
  if (local_var.size() != 0) {
    call.check_length("local_var", local_var, static_cast<std::size_t>(call.shape.c));
  }
  if (!call.good()) return;
  on_error.check(syncnorm_moments(&call.shape, &call.options, &call.forward, wire.data(),
                                  local_var.data(), &call.launch));
}

inline void center(const Options& options, const Shape& shape, std::int64_t group_size,
                   Span<const double> wire, Span<const double> total, Span<const double> local_var,
                   Span<double> center_wire, const Launch& launch, OnError on_error = {}) {
  const detail::Call call(options, shape, launch, on_error);
  call.check_totals(wire, total, center_wire);
  call.check_length("local_var", local_var, static_cast<std::size_t>(shape.c));
  if (!call.good()) return;
  on_error.check(syncnorm_center(&call.shape, &call.options, group_size, wire.data(), total.data(),
                                 local_var.data(), center_wire.data(), &call.launch));
}

// center_total: where query_sizes(...).center_wire > 0, else left out.
inline void normalize(const Options& options, const ForwardArgs& args, std::int64_t group_size,
                      Span<const double> wire, Span<const double> total, const Launch& launch,
                      Span<const double> center_total = {}, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  call.check_totals(wire, total, center_total);
  if (!call.good()) return;
  on_error.check(syncnorm_normalize(&call.shape, &call.options, &call.forward, group_size,
                                    wire.data(), total.data(), center_total.data(), &call.launch));
}

inline void update_running(const Options& options, const ForwardArgs& args, std::int64_t group_size,
                           Span<const double> wire, Span<const double> total, const Launch& launch,
                           Span<const double> center_total = {}, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  call.check_totals(wire, total, center_total);
  if (!call.good()) return;
  on_error.check(syncnorm_update_running(&call.shape, &call.options, &call.forward, group_size,
                                         wire.data(), total.data(), center_total.data(),
                                         &call.launch));
}

// total = the sum of the wires that `gathered` holds one after the other, in their order: for a
// collective that gathers but does not sum float64. Their number is gathered.size()/total.size().
inline void add_wires(Span<const double> gathered, Span<double> total, const Launch& launch,
                      OnError on_error = {}) {
  const std::size_t ranks = total.size() == 0 ? 0 : gathered.size() / total.size();
  if (gathered.size() != ranks * total.size()) {
    return on_error.fail(SYNCNORM_INVALID_ARGUMENT, "gathered has " +
                                                        std::to_string(gathered.size()) +
                                                        " values, expected a multiple of total's " +
                                                        std::to_string(total.size()));
  }
  on_error.check(syncnorm_add_wires(gathered.data(), static_cast<std::int64_t>(ranks),
                                    static_cast<std::int64_t>(total.size()), total.data(),
                                    &launch.c_struct()));
}

// ----------------------------------------------------------------------------- backward, in phases

inline void grad_moments(const Options& options, const BackwardArgs& args, Span<double> wire,
                         const Launch& launch, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  call.check_length("wire", wire, call.sizes.grad_wire);
  if (!call.good()) return;
  on_error.check(
      syncnorm_grad_moments(&call.shape, &call.options, &call.backward, wire.data(), &call.launch));
}

inline void grad_input(const Options& options, const BackwardArgs& args, std::int64_t group_size,
                       Span<const double> wire, Span<const double> total, const Launch& launch,
                       OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  call.check_length("wire", wire, call.sizes.grad_wire);
  call.check_length("total", total, call.sizes.grad_wire);
  if (!call.good()) return;
  on_error.check(syncnorm_grad_input(&call.shape, &call.options, &call.backward, group_size,
                                     wire.data(), total.data(), &call.launch));
}

// --------------------------------------------------------------------------- running statistics

inline void infer(const Options& options, const ForwardArgs& args, const Launch& launch,
                  OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  on_error.check(syncnorm_infer(&call.shape, &call.options, &call.forward, &call.launch));
}

inline void infer_backward(const Options& options, const BackwardArgs& args, const Launch& launch,
                           OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  on_error.check(syncnorm_infer_backward(&call.shape, &call.options, &call.backward, &call.launch));
}

// ------------------------------------------------------------------------- all phases in one call

inline void forward(const Options& options, const ForwardArgs& args, Communicator& comm,
                    const Launch& launch, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  comm.finish(syncnorm_forward(&call.shape, &call.options, &call.forward, comm.get(), &call.launch),
              on_error);
}

inline void backward(const Options& options, const BackwardArgs& args, Communicator& comm,
                     const Launch& launch, OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  comm.finish(
      syncnorm_backward(&call.shape, &call.options, &call.backward, comm.get(), &call.launch),
      on_error);
}

// A group of one.
inline void forward(const Options& options, const ForwardArgs& args, const Launch& launch,
                    OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  on_error.check(
      syncnorm_forward(&call.shape, &call.options, &call.forward, nullptr, &call.launch));
}

inline void backward(const Options& options, const BackwardArgs& args, const Launch& launch,
                     OnError on_error = {}) {
  const detail::Call call(options, args, launch, on_error);
  if (!call.good()) return;
  on_error.check(
      syncnorm_backward(&call.shape, &call.options, &call.backward, nullptr, &call.launch));
}

}  // namespace SYNCNORM_INLINE_NAMESPACE
}  // namespace syncnorm

#endif  // SYNCNORM_PHASES_HPP_
